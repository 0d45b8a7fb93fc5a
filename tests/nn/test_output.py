"""Skip connections and the output layers."""

import torch

from raypixel.nn.masked import color_groups
from raypixel.nn.output import OutputHead, SkipSum


def test_skips_are_the_sum_of_a_1x1_of_each_layers_output():
    skips = SkipSum(color_groups(4, 1), num_layers=3).double()
    outputs = torch.randn(3, 2, 4, 5, 3, dtype=torch.float64)
    total = None
    for layer, output in enumerate(outputs):
        total = skips(layer, output, total)
    expected = sum(
        torch.einsum("oc,nchw->nohw", each.weight[:, :, 0, 0], output) + each.bias[:, None, None]
        for each, output in zip(skips.convolutions, outputs, strict=True)
    )
    assert torch.allclose(total, expected, rtol=0, atol=1e-12)


def test_network_without_skips_sums_nothing():
    skips = SkipSum(color_groups(4, 1), num_layers=0)
    assert skips(0, torch.ones(1, 4, 2, 2), None) is None


def head(**options):
    sizes = {"num_colors": 3, "output_size": 7, "num_channels": 3, "num_params": 5}
    return OutputHead(color_groups(6, 3), **{**sizes, **options})


def test_untrained_head_gives_zeros():
    assert not head()(torch.randn(2, 6, 4, 3), torch.randn(2, 6, 4, 3)).any()


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
