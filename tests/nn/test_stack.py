"""Skip connections and the output layers."""

import pytest
import torch
from torch import nn

from raypixel.nn.masked import color_groups
from raypixel.nn.stack import OutputHead, ResidualStack, SideInputs


class Scaled(nn.Module):
    """Multiply features by a number; with two maps, the first stays."""

    def __init__(self, number):
        super().__init__()
        self.factor = 2.0 + number

    def forward(self, features, side):
        if isinstance(features, tuple):
            return features[0], self.factor * features[1]
        return self.factor * features


def stack(**options):
    sizes = {"num_layers": 3, "output_size": 6, "num_channels": 1, "num_params": 2, **options}
    made = ResidualStack(Scaled, color_groups(4, 1), **sizes).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    return made


@pytest.mark.parametrize("use_skip", [True, False])
def test_the_head_reads_the_last_layer_and_the_sum_of_a_1x1_of_each_layers_output(use_skip):
    layers = stack(use_skip=use_skip)
    x = torch.randn(2, 4, 5, 3, dtype=torch.float64)
    total = 24 * x  # 2 * 3 * 4
    if use_skip:
        for each, output in zip(layers.skips, (2 * x, 6 * x, 24 * x), strict=True):
            weight = each.weight[:, :, 0, 0]
            skip = torch.einsum("oc,nchw->nohw", weight, output) + each.bias[:, None, None]
            total = total + skip
    expected = layers.head(total)
    assert torch.allclose(layers(x, SideInputs()), expected, rtol=0, atol=1e-9)


def test_of_two_maps_the_last_leads_to_the_output():
    layers = stack(use_skip=True)
    x, other = torch.randn(2, 2, 4, 5, 3, dtype=torch.float64)
    assert torch.equal(layers((other, x), SideInputs()), layers(x, SideInputs()))


def head(**options):
    sizes = {"output_size": 7, "num_channels": 3, "num_params": 5}
    return OutputHead(color_groups(6, 3), **{**sizes, **options})


def test_untrained_head_gives_zeros():
    assert not head()(torch.randn(2, 6, 4, 3)).any()


def test_parameters_of_a_color_read_no_later_color_group():
    layer = head().double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(0.1, 1.0)  # all units alive
    features = torch.ones(1, 6, 1, 1, dtype=torch.float64)
    before = layer(features)  # (1, 5, 3, 1, 1)
    for group in range(3):
        changed = features.clone()
        changed[:, 2 * group : 2 * group + 2] += 3.0
        differs = (layer(changed) != before).any(1).flatten().tolist()
        assert differs[:group] == [False] * group
        assert differs[group]
