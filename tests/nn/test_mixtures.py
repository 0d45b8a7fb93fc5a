"""The discretized logistic mixture against the plain formula, its sums, its gradients and its samples."""

import itertools
import math

import pytest
import torch

from raypixel.nn.likelihoods import gumbel_noise
from raypixel.nn.mixtures import DiscretizedLogisticMixture


def mixture(num_levels: int, num_channels: int, num_mixtures: int = 3):
    return DiscretizedLogisticMixture(
        num_levels, num_channels=num_channels, num_mixtures=num_mixtures
    )


def params_for(likelihood, *shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = (shape[0], likelihood.num_maps(likelihood.num_channels), *shape[1:])
    return torch.randn(size, generator=generator, dtype=torch.float64)


def plain_probability(params, pixel, num_levels: int, num_channels: int, num_mixtures: int):
    """The probability of one pixel, written out: sum over mixtures of the product of differences of CDFs."""
    table = params.view(-1, num_mixtures).tolist()
    c = num_channels
    total, weights = 0.0, torch.tensor(table[0], dtype=torch.float64).softmax(0)
    values = [2 * level / (num_levels - 1) - 1 for level in pixel]
    pairs = {(1, 0): 0, (2, 0): 1, (2, 1): 2}
    for k in range(num_mixtures):
        product = weights[k]
        for i in range(c):
            mean = table[1 + i][k]
            for j in range(i):
                mean += math.tanh(table[1 + 2 * c + pairs[i, j]][k]) * values[j]
            scale = torch.tensor(max(table[1 + c + i][k], -7.0), dtype=torch.float64).exp()
            half = 1 / (num_levels - 1)
            upper = torch.sigmoid(torch.as_tensor((values[i] + half - mean) / scale))
            lower = torch.sigmoid(torch.as_tensor((values[i] - half - mean) / scale))
            upper = 1.0 if pixel[i] == num_levels - 1 else upper
            lower = 0.0 if pixel[i] == 0 else lower
            product = product * (upper - lower)
        total += product
    return float(total)


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("num_levels", [2, 5, 256])
def test_nats_are_those_of_the_plain_formula(num_levels, num_channels):
    likelihood = mixture(num_levels, num_channels)
    params = params_for(likelihood, 2, 3, 4)
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, num_levels, (2, num_channels, 3, 4), generator=generator)
    x[0, :, 0, 0], x[0, :, 0, 1] = 0, num_levels - 1
    expected = torch.zeros(2, dtype=torch.float64)
    for n, i, j in itertools.product(range(2), range(3), range(4)):
        pixel = x[n, :, i, j].tolist()
        p = plain_probability(params[n, :, i, j], pixel, num_levels, num_channels, 3)
        expected[n] -= torch.tensor(p, dtype=torch.float64).log()
    torch.testing.assert_close(likelihood.nll_nats(params, x), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("num_levels", "num_channels"), [(256, 1), (2, 1), (2, 3), (5, 3), (256, 2), (17, 2)]
)
@pytest.mark.parametrize("spread", [1.0, 6.0])
def test_probabilities_of_all_pixels_sum_to_one(num_levels, num_channels, spread):
    likelihood = mixture(num_levels, num_channels)
    pixels = torch.cartesian_prod(*[torch.arange(num_levels)] * num_channels)
    x = pixels.view(-1, num_channels, 1, 1)
    params = spread * params_for(likelihood, 1, 1, 1)
    nats = likelihood.nll_map(params.expand(len(x), -1, -1, -1), x).flatten(1).sum(1)
    assert nats.std() > 0.01
    assert torch.exp(-nats).sum().item() == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("num_channels", [1, 3])
def test_levels_of_the_next_channel_have_the_probabilities_that_nats_say(num_channels):
    likelihood = mixture(7, num_channels)
    params = params_for(likelihood, 4)
    given = torch.randint(0, 7, (4, num_channels), generator=torch.Generator().manual_seed(2))
    for channel in range(num_channels):
        found = likelihood.log_probabilities(params, given[:, :channel])
        assert torch.allclose(found.exp().sum(1), torch.ones(4, dtype=torch.float64), atol=1e-12)
        for level in range(7):
            x = given.clone()
            x[:, channel] = level
            nats = likelihood.nll_map(params[:, :, None, None], x[:, :, None, None])[:, channel]
            torch.testing.assert_close(found[:, level], -nats[:, 0, 0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mean", [0.0, 1.0, -40.0, 1e4, 1e8])
@pytest.mark.parametrize("log_scale", [-50.0, -7.0, 0.0, 20.0, 200.0])
def test_nats_and_gradients_are_finite_at_the_extremes(dtype, mean, log_scale):
    likelihood = mixture(256, 3, 2)
    params = torch.zeros(1, likelihood.num_maps(likelihood.num_channels), 1, 5, dtype=dtype)
    params[:, 2:8], params[:, 8:14] = mean, log_scale
    params.requires_grad_()
    x = torch.tensor([0, 1, 127, 254, 255]).view(1, 1, 1, 5).expand(1, 3, 1, 5)
    nats = likelihood.nll_nats(params, x)
    nats.sum().backward()
    assert torch.isfinite(nats).all()
    assert torch.isfinite(params.grad).all()


@pytest.mark.parametrize("log_scale", [-7.0, -6.5, -3.0, 0.0, 4.0])
def test_float32_keeps_narrow_bins_and_the_tails(log_scale):
    likelihood = mixture(256, 1, 1)
    params = torch.tensor([0.0, 0.3, log_scale]).view(1, 3, 1, 1).expand(256, -1, -1, -1)
    x = torch.arange(256).view(-1, 1, 1, 1)
    exact = likelihood.nll_map(params.double(), x)
    found = likelihood.nll_map(params, x)
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-4)


def test_samples_follow_the_probabilities():
    likelihood = mixture(4, 3)
    params = params_for(likelihood, 1).expand(20_000, -1)
    generator = torch.Generator().manual_seed(3)
    given = torch.zeros(20_000, 0, dtype=torch.int64)
    for _ in range(3):
        noise = gumbel_noise((20_000, 4), generator)
        drawn = likelihood.sample(params, noise, given=given)
        given = torch.cat([given, drawn[:, None]], dim=1)
    pixels = torch.cartesian_prod(*[torch.arange(4)] * 3)
    nats = (
        likelihood.nll_map(params[:64, :, None, None], pixels.view(64, 3, 1, 1)).flatten(1).sum(1)
    )
    expected = 20_000 * torch.exp(-nats)
    counts = torch.bincount((given * torch.tensor([16, 4, 1])).sum(1), minlength=64)
    assert (
        (counts - expected).square() / expected.clamp(min=1)
    ).sum() < 115  # 63 degrees of freedom


def test_a_low_temperature_draws_the_likeliest_level():
    likelihood = mixture(9, 1)
    params = params_for(likelihood, 6)
    given = torch.zeros(6, 0, dtype=torch.int64)
    noise = gumbel_noise((6, 9), torch.Generator().manual_seed(0))
    drawn = likelihood.sample(params, noise, given=given, temperature=1e-9)
    assert torch.equal(drawn, likelihood.log_probabilities(params, given).argmax(1))


def test_the_papers_rgb_pixel_has_100_parameters_and_a_gray_one_30():
    assert mixture(256, 3, 10).num_maps(3) == 100
    assert mixture(256, 1, 10).num_maps(1) == 30


def test_a_level_out_of_range_is_refused():
    likelihood = mixture(4, 1)
    with pytest.raises(ValueError, match=r"x must hold levels in \[0, 3\], got \[4, 4\]"):
        likelihood.nll_nats(params_for(likelihood, 1, 1, 1), torch.full((1, 1, 1, 1), 4))
