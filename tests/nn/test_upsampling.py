"""The deconvolution net: sizes, and exactly the cells that each pixel depends on."""

import pytest
import torch

from raypixel.nn.upsampling import UpsamplingNet, subsample
from tests.receptive_fields import cells_seen


@pytest.mark.parametrize(
    ("height", "width", "factor"), [(8, 8, 2), (5, 7, 2), (7, 4, 3), (1, 2, 2)]
)
@pytest.mark.parametrize("num_layers", [1, 2])
def test_each_pixel_depends_on_exactly_the_cells_promised(height, width, factor, num_layers):
    small = subsample(torch.zeros(1, 3, height, width), factor)
    sizes = {"hidden_size": 8, "num_layers": num_layers, "factor": factor}
    seen = torch.zeros(height, width, *small.shape[-2:], dtype=torch.bool)
    for seed in range(4):
        torch.manual_seed(seed)
        net = UpsamplingNet(3, 4, **sizes)
        inputs = torch.randn_like(small).requires_grad_()
        maps = net(inputs, height=height, width=width)
        assert maps.shape == (1, 4, height, width)
        for i in range(height):
            for j in range(width):
                (grad,) = torch.autograd.grad(maps[0, :, i, j].sum(), inputs, retain_graph=True)
                seen[i, j] |= grad[0].ne(0).any(0)
    for i in range(height):
        for j in range(width):
            position = torch.zeros(height, width, dtype=torch.bool)
            position[i, j] = True
            assert torch.equal(cells_seen(position, factor, num_layers), seen[i, j])


def test_subsampling_keeps_values_and_starts_at_the_top_left():
    x = torch.arange(15).view(1, 1, 3, 5)
    assert subsample(x, 2).flatten().tolist() == [0, 2, 4, 10, 12, 14]
