import pytest
import torch
import torch.nn.functional as F

from raypixel.errors import ConfigError
from raypixel.models import build_model
from raypixel.models.pixelcnn import PixelCNN
from raypixel.nn.likelihoods import Bernoulli, Categorical
from raypixel.nn.masked import causal_mask, color_groups
from tests.contract import random_model
from tests.receptive_fields import receptive_field

TINY = {"hidden_size": 4, "num_layers": 2, "output_size": 6}


def config(**options) -> PixelCNN.Config:
    return PixelCNN.Config(**(TINY | options))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("num_levels", [2, 17])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 0},
        {"use_skip": True},
        {"norm": "layer"},
        {"use_residual": False},
        {"hidden_size": 7, "kernel_size": 5, "first_kernel_size": 9, "num_layers": 3},
    ],
    ids=str,
)
def test_number_of_parameters_is_that_of_the_papers_layers(options, num_levels, channels):
    c = config(**options)
    h, k, k1, out = c.hidden_size, c.kernel_size, c.first_kernel_size, c.output_size
    num_params = channels * (1 if num_levels == 2 else num_levels)
    expected = channels * 2 * h * (k1 // 2 + 1) * k1 + 2 * h
    block = (2 * h * h + h) + (h * h * (k // 2 + 1) * k + h) + (h * 2 * h + 2 * h)
    if c.norm == "layer":
        block += 2 * 2 * h
    if c.use_skip:
        block += 2 * h * 2 * h + 2 * h
    expected += c.num_layers * block + (2 * h * out + out) + (out * num_params + num_params)
    model = build_model(c, image_shape=(channels, 6, 5), num_levels=num_levels)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"norm": "layer"},
        {"use_residual": False},
        {"use_skip": True, "norm": "layer"},
        {"kernel_size": 5, "first_kernel_size": 3},
        {"num_layers": 0},
    ],
    ids=str,
)
def test_forward_is_the_papers_stack_written_out(options, channels):
    c = config(**options)
    model = random_model(c, image_shape=(channels, 5, 6), num_levels=5)
    weights = dict(model.named_parameters())
    wide, narrow = color_groups(8, channels), color_groups(4, channels)
    head, params = color_groups(6, channels), color_groups(5 * channels, channels)

    def masked(x, name, inputs, outputs, mask_type="B"):
        weight = weights[f"{name}.weight"]
        mask = causal_mask(outputs, inputs, kernel_size=weight.shape[2:], mask_type=mask_type)
        side, above = weight.shape[3] // 2, weight.shape[2] - 1
        x = F.pad(x, (side, side, above, 0))
        return F.conv2d(x, weight * mask, weights[f"{name}.bias"])

    def norm(x, name):
        parts = []
        for group in range(channels):
            part = x[:, wide == group]
            mean, variance = part.mean(1, keepdim=True), part.var(1, keepdim=True, unbiased=False)
            parts.append((part - mean) / (variance + 1e-5).sqrt())
        scale, shift = (weights[f"{name}.{kind}"].view(1, -1, 1, 1) for kind in ("weight", "bias"))
        return torch.cat(parts, 1) * scale + shift

    x = torch.randint(0, 5, (2, channels, 5, 6))
    y = masked(x.double() / 2 - 1, "first", color_groups(channels, channels), wide, "A")
    skips = 0
    for i in range(c.num_layers):
        z = norm(y, f"stack.layers.{i}.norm") if c.norm == "layer" else y
        z = masked(z.relu(), f"stack.layers.{i}.narrow", wide, narrow)
        z = masked(z.relu(), f"stack.layers.{i}.look", narrow, narrow)
        z = masked(z.relu(), f"stack.layers.{i}.widen", narrow, wide)
        y = y + z if c.use_residual else z
        skips = skips + masked(y, f"stack.skips.{i}", wide, wide) if c.use_skip else 0
    y = masked((y + skips).relu(), "stack.head.first", wide, head)
    y = masked(y.relu(), "stack.head.last", head, params)
    expected = torch.stack([y[:, 5 * color : 5 * color + 5] for color in range(channels)], dim=2)
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected, rtol=1e-10, atol=1e-10)


def reached(height, width, row, column, *, first, radius, num_layers) -> torch.Tensor:
    """Walk back through the layers: which pixels the parameters at (row, column) can see."""

    def step(pixels, r, *, center):
        return {
            (i - up, j + right)
            for i, j in pixels
            for up in range(r + 1)
            for right in range(-r, r + 1 if up else center)
            if i - up >= 0 and 0 <= j + right < width
        }

    pixels = {(row, column)}
    for _ in range(num_layers):
        pixels = step(pixels, radius, center=1)
    field = torch.zeros(height, width, dtype=torch.bool)
    for i, j in step(pixels, first, center=0):
        field[i, j] = True
    return field


@pytest.mark.parametrize("first", [0, 1, 3])
@pytest.mark.parametrize("radius", [0, 1, 2])
@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_receptive_field_is_what_the_kernels_reach_layer_by_layer(first, radius, num_layers):
    height, width = 9, 11
    c = config(num_layers=num_layers, kernel_size=2 * radius + 1, first_kernel_size=2 * first + 1)
    model = build_model(c, image_shape=(1, height, width), num_levels=2)
    for row in range(height):
        for column in range(width):
            expected = reached(
                height, width, row, column, first=first, radius=radius, num_layers=num_layers
            )
            assert torch.equal(receptive_field(model, row, column), expected), (row, column)


@pytest.mark.parametrize("reach", [2, 5, 20])
def test_blind_spot_of_3x3_kernels_is_almost_a_quarter_of_the_context(reach):
    """2016b, fig. 1: with 3x3 filters it covers up to a quarter of the potential receptive field."""
    height, width = reach + 1, 2 * reach + 1
    c = config(num_layers=reach - 1, kernel_size=3, first_kernel_size=3)
    model = build_model(c, image_shape=(1, height, width), num_levels=2)
    field = receptive_field(model, reach, reach)
    context = reach * width + reach
    is_blind = torch.zeros(height, width, dtype=torch.bool)
    for above in range(1, reach + 1):  # more pixels to the right than rows above
        is_blind[reach - above, reach + above + 1 :] = True
    assert torch.equal(field.flatten()[:context], ~is_blind.flatten()[:context])
    assert int(is_blind.sum()) / context == pytest.approx((reach - 1) / (4 * (reach + 1)))


def test_the_blind_spot_is_really_blind():
    """2016b, fig. 1: no depth lets a pixel see what lies too far to its right, though it is earlier."""
    c = config(num_layers=4, kernel_size=3, first_kernel_size=3, hidden_size=24)
    model = random_model(c, image_shape=(1, 6, 11), num_levels=4)
    x = torch.randint(0, 4, (1, 1, 6, 11), generator=torch.Generator().manual_seed(0))
    field = receptive_field(model, 5, 5)
    blind = [(4, 7), (4, 10), (3, 8), (2, 9), (1, 10)]
    seen = [(4, 6), (3, 7), (2, 8), (1, 9), (5, 4), (5, 0), (0, 0)]
    changed = x.clone()
    for i, j in blind:
        assert not field[i, j]
        changed[0, 0, i, j] = (x[0, 0, i, j] + 2) % 4
    with torch.no_grad():
        before = model(x)[..., 5, 5]
        assert torch.equal(model(changed)[..., 5, 5], before)
        for i, j in seen:
            assert field[i, j]
            changed = x.repeat(4, 1, 1, 1)
            changed[:, 0, i, j] = torch.arange(4)
            assert model(changed)[..., 5, 5].std(0).max() > 1e-12, (i, j)


@pytest.mark.parametrize("use_color_conditioning", [True, False])
def test_green_sees_red_and_blue_sees_both_only_with_color_conditioning(use_color_conditioning):
    c = config(hidden_size=6, use_color_conditioning=use_color_conditioning)
    seen = torch.zeros(3, 3, dtype=torch.bool)  # [output color, input color]
    for seed in range(6):  # a dead unit hides a path in one model, not in six
        model = random_model(c, image_shape=(3, 3, 3), num_levels=8, seed=seed)
        for color in range(3):
            x = torch.full((8, 3, 3, 3), 3)
            x[:, color, 1, 1] = torch.arange(8)
            with torch.no_grad():
                params = model(x)[:, :, :, 1, 1]
            seen[:, color] |= (params != params[:1]).flatten(2).any(0).any(0)
    expected = torch.ones(3, 3).tril(-1).bool() & use_color_conditioning
    assert torch.equal(seen, expected)


def test_two_levels_have_one_logit_and_more_have_one_each():
    for num_levels, likelihood, num_params in ((2, Bernoulli, 1), (5, Categorical, 5)):
        model = build_model(config(), image_shape=(3, 4, 5), num_levels=num_levels)
        assert isinstance(model.likelihood, likelihood)
        x = torch.zeros((2, 3, 4, 5), dtype=torch.uint8)
        assert model(x).shape == (2, num_params, 3, 4, 5)


def test_class_labels_are_refused():
    model = build_model(config(), image_shape=(1, 4, 4), num_levels=2, num_classes=10)
    assert model.num_classes == 0
    x = torch.zeros((2, 1, 4, 4), dtype=torch.uint8)
    with pytest.raises(ValueError, match="class_labels must be None, pixelcnn is not class-cond"):
        model(x, torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("options", [{"hidden_size": 1}, {"hidden_size": 2}, {"output_size": 2}])
def test_too_few_features_for_three_colors_are_refused(options):
    with pytest.raises(
        ConfigError, match=r"^model: .*must be at least one for each of 3 colors, got 2$"
    ):
        build_model(config(**options), image_shape=(3, 4, 4), num_levels=5)
    build_model(config(**options), image_shape=(1, 4, 4), num_levels=5)
    plain = config(**options, use_color_conditioning=False)
    assert build_model(plain, image_shape=(3, 4, 4), num_levels=5).config == plain
