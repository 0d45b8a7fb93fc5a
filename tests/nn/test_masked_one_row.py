"""A masked convolution one row high."""

import pytest
import torch
import torch.nn.functional as F

from raypixel.nn.masked import MaskedConv2d, causal_mask, color_groups


@pytest.mark.parametrize("mask_type", ["A", "B"])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_cropped_row_equals_the_full_masked_row(kernel_size, mask_type):
    inputs, outputs = color_groups(4, 3), color_groups(6, 3)
    sizes = {"kernel_size": kernel_size, "mask_type": mask_type}
    layer = MaskedConv2d(inputs, outputs, **sizes, rows_above=0).double()
    weight = torch.randn(6, 4, 1, kernel_size, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(weight[..., : kernel_size // 2 + 1])
    mask = causal_mask(outputs, inputs, kernel_size=(1, kernel_size), mask_type=mask_type)
    x = torch.randn(2, 4, 3, 7, dtype=torch.float64)
    expected = F.conv2d(x, weight * mask, layer.bias, padding=(0, kernel_size // 2))
    assert torch.allclose(layer(x), expected, rtol=0, atol=1e-12)


def test_a_one_row_layer_says_so():
    sizes = {"kernel_size": 3, "mask_type": "B", "rows_above": 0}
    layer = MaskedConv2d(color_groups(4, 1), color_groups(6, 1), **sizes)
    assert repr(layer) == "MaskedConv2d(4, 6, kernel_size=3, rows_above=0)"
