import pytest
import torch

from raypixel.nn.masked import color_groups
from raypixel.nn.norm import GroupedLayerNorm


def random_norm(groups: torch.Tensor) -> GroupedLayerNorm:
    norm = GroupedLayerNorm(groups).double()
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    return norm


@pytest.mark.parametrize(
    ("num_channels", "num_colors"), [(6, 1), (6, 3), (8, 3), (7, 2), (3, 3), (1, 1)]
)
def test_each_group_is_normalized_alone_at_each_position(num_channels, num_colors):
    torch.manual_seed(0)
    groups = color_groups(num_channels, num_colors)
    norm = random_norm(groups)
    x = 3 + 5 * torch.randn(2, num_channels, 3, 4, dtype=torch.float64)
    expected = torch.empty_like(x)
    for n in range(2):
        for i in range(3):
            for j in range(4):
                for group in range(num_colors):
                    part = x[n, groups == group, i, j]
                    variance = part.var(unbiased=False)
                    expected[n, groups == group, i, j] = (part - part.mean()) / (
                        variance + 1e-5
                    ).sqrt()
    expected = expected * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(norm(x), expected, rtol=1e-10, atol=1e-10)


def test_no_color_leaks_into_another():
    torch.manual_seed(0)
    groups = color_groups(8, 3)
    norm = random_norm(groups)
    x = torch.randn(1, 8, 2, 2, dtype=torch.float64)
    before = norm(x)
    for group in range(3):
        changed = x.clone()
        changed[:, groups == group] += torch.randn_like(changed[:, groups == group])
        is_same = (norm(changed) == before).all(dim=3).all(dim=2)[0]
        assert is_same.tolist() == (groups != group).tolist()


def test_no_position_leaks_into_another():
    torch.manual_seed(0)
    norm = random_norm(color_groups(6, 3))
    x = torch.randn(2, 6, 3, 3, dtype=torch.float64)
    changed = x.clone()
    changed[1, :, 1, 2] += torch.randn(6, dtype=torch.float64)
    differs = (norm(changed) != norm(x)).any(1)
    expected = torch.zeros(2, 3, 3, dtype=torch.bool)
    expected[1, 1, 2] = True
    assert torch.equal(differs, expected)


def test_memory_format_does_not_change_the_result():
    torch.manual_seed(0)
    norm = random_norm(color_groups(8, 3))
    x = torch.randn(2, 8, 3, 4, dtype=torch.float64)
    assert torch.equal(norm(x.contiguous(memory_format=torch.channels_last)), norm(x))


def test_it_starts_as_plain_normalization():
    norm = GroupedLayerNorm(color_groups(6, 3))
    assert torch.equal(norm.weight, torch.ones(6))
    assert torch.equal(norm.bias, torch.zeros(6))
