"""The gated layer against loops, the shift that happens once, and what the class adds."""

import pytest
import torch

from raypixel.nn.gated import GatedLayer, VerticalConv2d, gate
from raypixel.nn.masked import causal_mask, color_groups
from raypixel.nn.stack import SideInputs


def test_content_passes_tanh_and_the_gate_a_sigmoid():
    maps = torch.tensor([0.5, -3.0, 2.0, -1.0]).view(1, 4, 1, 1)
    expected = [
        torch.tanh(torch.tensor(0.5)) / (1 + torch.exp(torch.tensor(-2.0))),
        torch.tanh(torch.tensor(-3.0)) / (1 + torch.exp(torch.tensor(1.0))),
    ]
    assert gate(maps).flatten().tolist() == pytest.approx([float(value) for value in expected])


@pytest.mark.parametrize("mask_type", ["A", "B"])
@pytest.mark.parametrize(("height", "width"), [(4, 5), (1, 3), (5, 2)])
def test_vertical_convolution_equals_a_loop_over_the_rows_it_may_see(height, width, mask_type):
    layer = VerticalConv2d(2, 3, kernel_size=5, mask_type=mask_type).double()
    weight, bias = layer.convolution.weight, layer.convolution.bias
    last = 1 if mask_type == "A" else 0  # rows above the pixel at which the kernel ends
    x = torch.randn(1, 2, height, width, dtype=torch.float64)
    y = layer(x)
    for i in range(height):
        for j in range(width):
            total = bias.clone()
            for above in range(2, last - 1, -1):
                for right in range(-2, 3):
                    if i - above >= 0 and 0 <= j + right < width:
                        total = (
                            total
                            + weight[:, :, 2 - above, 2 + right] @ x[0, :, i - above, j + right]
                        )
            assert torch.allclose(y[0, :, i, j], total, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("size", "num_colors"), [(4, 3), (5, 3), (6, 1)])
def test_each_half_of_the_horizontal_maps_is_split_by_color_on_its_own(size, num_colors):
    groups = color_groups(size, num_colors)
    layer = gated(size=size, num_colors=num_colors)
    expected = causal_mask(groups, groups, kernel_size=(1, 3), mask_type="B")[..., :2]
    for half in layer.horizontal.mask.split(size):
        assert torch.equal(half, expected)


def gated(*, size=6, num_colors=3, mask_type="B", **options):
    groups = color_groups(size, num_colors)
    options = {"kernel_size": 3, "norm": "none", "use_residual": True, **options}
    return GatedLayer(groups, groups, mask_type=mask_type, **options).double()


def test_horizontal_stack_gets_the_vertical_maps_of_its_own_row_before_the_gate():
    layer = gated()
    vertical, horizontal = torch.randn(2, 1, 6, 4, 5, dtype=torch.float64)
    above = layer.vertical(vertical)
    maps = layer.horizontal(horizontal) + torch.einsum(
        "oc,nchw->nohw", layer.vertical_to_horizontal.weight[:, :, 0, 0], above
    )
    maps = maps + layer.vertical_to_horizontal.bias[:, None, None]
    new_vertical, new_horizontal = layer((vertical, horizontal), SideInputs())
    assert torch.allclose(new_vertical, gate(above), rtol=0, atol=1e-12)
    expected = horizontal + layer.output(gate(maps))  # residual here, none on the vertical stack
    assert torch.allclose(new_horizontal, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("mask_type", "first_row_below"), [("A", 1), ("B", 0)])
def test_only_the_first_layer_shifts(mask_type, first_row_below):
    layer = gated(mask_type=mask_type, use_residual=False)
    x = torch.zeros(1, 6, 5, 5, dtype=torch.float64)
    changed = x.clone()
    changed[0, :, 2, 2] = 1.0
    differs = (
        (layer((x, x), SideInputs())[0] != layer((changed, x), SideInputs())[0]).any(1)[0].any(1)
    )
    assert differs.nonzero().flatten().tolist() == list(range(2 + first_row_below, 4))


def test_class_adds_its_embedding_to_both_halves_of_both_stacks():
    layer = gated(num_classes=3, use_residual=False)
    vertical, horizontal = torch.randn(2, 2, 6, 4, 5, dtype=torch.float64)
    labels = torch.tensor([2, 0])
    added_above, added_left = layer.classes.weight[labels].view(2, 2, 12, 1, 1).unbind(1)
    above = layer.vertical(vertical)
    left = layer.horizontal(horizontal) + layer.vertical_to_horizontal(above)
    got = layer((vertical, horizontal), SideInputs(class_labels=labels))
    assert torch.allclose(got[0], gate(above + added_above), rtol=0, atol=1e-12)
    assert torch.allclose(got[1], layer.output(gate(left + added_left)), rtol=0, atol=1e-12)
