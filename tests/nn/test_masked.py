import itertools

import pytest
import torch
import torch.nn.functional as F

from raypixel.nn.masked import MaskedConv2d, causal_mask, color_groups, scale_levels


def paper_mask(in_groups, out_groups, kernel_size: int, mask_type: str) -> torch.Tensor:
    """2016a, sec. 3.4: the full k x k mask, entry by entry. Nothing of it is cropped."""
    mask = torch.zeros(len(out_groups), len(in_groups), kernel_size, kernel_size)
    center = kernel_size // 2
    places = itertools.product(range(kernel_size), range(kernel_size))
    for (i, j), (o, out_group), (p, in_group) in itertools.product(
        places, enumerate(out_groups.tolist()), enumerate(in_groups.tolist())
    ):
        is_earlier_pixel = i < center or (i == center and j < center)
        is_earlier_color = in_group < out_group or (mask_type == "B" and in_group == out_group)
        is_same_pixel = (i, j) == (center, center)
        mask[o, p, i, j] = float(is_earlier_pixel or (is_same_pixel and is_earlier_color))
    return mask


@pytest.mark.parametrize("mask_type", ["A", "B"])
@pytest.mark.parametrize("kernel_size", [1, 3, 7])
@pytest.mark.parametrize(
    ("num_inputs", "num_outputs", "num_colors"),
    [(1, 5, 1), (3, 7, 3), (8, 4, 3), (4, 4, 1), (3, 3, 3), (5, 6, 2)],
)
def test_masked_convolution_is_a_full_one_whose_weight_the_paper_masks(
    mask_type, kernel_size, num_inputs, num_outputs, num_colors
):
    torch.manual_seed(0)
    inputs, outputs = color_groups(num_inputs, num_colors), color_groups(num_outputs, num_colors)
    layer = MaskedConv2d(inputs, outputs, kernel_size=kernel_size, mask_type=mask_type).double()
    full = torch.randn(num_outputs, num_inputs, kernel_size, kernel_size, dtype=torch.float64)
    full[:, :, : kernel_size // 2 + 1] = layer.weight.detach()  # what is not stored is random
    mask = paper_mask(inputs, outputs, kernel_size, mask_type)
    x = torch.randn(2, num_inputs, 6, 5, dtype=torch.float64)
    expected = F.conv2d(x, full * mask, layer.bias, padding=kernel_size // 2)
    assert layer(x).shape == (2, num_outputs, 6, 5)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mask_type", ["A", "B"])
def test_a_cropped_mask_is_the_upper_part_of_the_papers(mask_type):
    inputs, outputs = color_groups(5, 3), color_groups(8, 3)
    mask = causal_mask(outputs, inputs, kernel_size=(3, 5), mask_type=mask_type)
    assert torch.equal(mask, paper_mask(inputs, outputs, 5, mask_type)[:, :, :3])


def test_a_row_kernel_sees_its_own_row_up_to_the_pixel():
    groups = color_groups(1, 1)
    mask = causal_mask(groups, groups, kernel_size=(1, 5), mask_type="A")
    assert mask.flatten().tolist() == [1, 1, 0, 0, 0]


def test_mask_a_lets_green_see_red_and_blue_see_both():
    colors = torch.arange(3)
    mask = causal_mask(colors, colors, kernel_size=(1, 1), mask_type="A")[:, :, 0, 0]
    assert mask.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
    mask = causal_mask(colors, colors, kernel_size=(1, 1), mask_type="B")[:, :, 0, 0]
    assert mask.tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_features_follow_the_colors_of_their_groups_and_not_their_position():
    inputs, outputs = torch.tensor([2, 0, 1]), torch.tensor([1, 2])
    mask = causal_mask(outputs, inputs, kernel_size=(1, 1), mask_type="B")[:, :, 0, 0]
    assert mask.tolist() == [[0, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize("columns", [2, 4])
def test_even_kernels_are_refused(columns):
    groups = color_groups(3, 1)
    text = f"kernel_size must have an odd number of columns, got {columns}"
    with pytest.raises(ValueError, match=text):
        causal_mask(groups, groups, kernel_size=(2, columns), mask_type="B")
    with pytest.raises(ValueError, match=text):
        MaskedConv2d(groups, groups, kernel_size=columns, mask_type="B")


@pytest.mark.parametrize(
    ("num_channels", "num_colors", "sizes"),
    [(1, 1, [1]), (3, 3, [1, 1, 1]), (8, 3, [3, 3, 2]), (7, 3, [3, 2, 2]), (6, 3, [2, 2, 2])],
)
def test_groups_are_contiguous_and_of_almost_equal_sizes(num_channels, num_colors, sizes):
    groups = color_groups(num_channels, num_colors)
    assert torch.bincount(groups, minlength=num_colors).tolist() == sizes
    assert groups.tolist() == sorted(groups.tolist())


@pytest.mark.parametrize("num_channels", range(3, 40))
def test_no_group_is_empty_and_sizes_differ_by_at_most_one(num_channels):
    sizes = torch.bincount(color_groups(num_channels, 3), minlength=3)
    assert sizes.sum() == num_channels
    assert 0 < sizes.min() <= sizes.max() <= sizes.min() + 1


def test_fewer_channels_than_colors_are_refused():
    with pytest.raises(
        ValueError, match="features of a layer must be at least one for each of 3 colors, got 2"
    ):
        color_groups(2, 3)


def test_closed_weights_get_no_gradient_and_the_stored_weight_is_left_alone():
    groups = color_groups(4, 3)
    layer = MaskedConv2d(groups, groups, kernel_size=3, mask_type="A")
    before = layer.weight.detach().clone()
    layer(torch.randn(1, 4, 5, 5)).square().sum().backward()
    assert torch.equal(layer.weight.detach(), before)
    assert before[layer.mask == 0].abs().min() > 0
    assert (layer.weight.grad[layer.mask == 0] == 0).all()
    assert (layer.weight.grad[layer.mask == 1] != 0).all()


def test_the_mask_is_not_part_of_a_checkpoint():
    groups = color_groups(4, 3)
    layer = MaskedConv2d(groups, groups, kernel_size=3, mask_type="A")
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert layer.weight.shape == (4, 4, 2, 3)


@pytest.mark.parametrize("mask_type", ["A", "B"])
def test_weights_start_uniform_within_the_fan_in_that_the_mask_leaves(mask_type):
    torch.manual_seed(0)
    inputs, outputs = color_groups(60, 3), color_groups(90, 3)
    layer = MaskedConv2d(inputs, outputs, kernel_size=3, mask_type=mask_type)
    for group in range(3):
        colors = group + (mask_type == "B")  # of 20 inputs each, at the pixel itself
        bound = (60 * 4 + 20 * colors) ** -0.5
        largest = layer.weight[outputs == group].abs().max().item()
        assert 0.99 * bound < largest <= bound
        assert layer.weight[outputs == group].std().item() == pytest.approx(
            bound / 3**0.5, rel=0.02
        )
        assert layer.bias[outputs == group].abs().max() <= bound


def test_a_kernel_that_sees_nothing_starts_finite():
    groups = color_groups(1, 1)
    layer = MaskedConv2d(groups, groups, kernel_size=1, mask_type="A")
    assert torch.isfinite(layer.weight).all()
    assert torch.equal(layer(torch.tensor([[[[5.0]]]])), layer.bias.view(1, 1, 1, 1))


@pytest.mark.parametrize("num_levels", [2, 17, 256])
def test_levels_are_scaled_from_minus_one_to_one_evenly(num_levels):
    x = torch.arange(num_levels, dtype=torch.uint8).view(1, 1, 1, -1)
    scaled = scale_levels(x, num_levels=num_levels, dtype=torch.float64).flatten()
    expected = torch.linspace(-1, 1, num_levels, dtype=torch.float64)
    torch.testing.assert_close(scaled, expected, rtol=0, atol=1e-14)


def test_the_layer_describes_its_size():
    layer = MaskedConv2d(color_groups(3, 3), color_groups(8, 3), kernel_size=7, mask_type="A")
    assert repr(layer) == "MaskedConv2d(3, 8, kernel_size=7)"
