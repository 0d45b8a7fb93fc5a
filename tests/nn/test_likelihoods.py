import math

import pytest
import torch

from raypixel.nn.likelihoods import Bernoulli, Categorical, gumbel_noise, likelihood_for, nll_nats

NONE = torch.zeros(1, 0, dtype=torch.int64)  # channels drawn before


def params_of(likelihood, *, count=3, shape=(3, 4, 5), scale=3.0, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = (count, likelihood.num_params, *shape)
    return (scale * torch.randn(size, generator=generator, dtype=torch.float64)).to(dtype)


def levels_of(num_levels, *, count=3, shape=(3, 4, 5), dtype=torch.int64):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, num_levels, (count, *shape), generator=generator).to(dtype)


def noise_of(count, size, seed=0):
    return gumbel_noise((count, size), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("num_levels", [3, 17, 256])
def test_categorical_nats_are_minus_log_of_the_softmax(num_levels):
    likelihood = Categorical(num_levels)
    params, x = params_of(likelihood), levels_of(num_levels)
    for n in range(len(x)):
        expected = 0.0
        for place in torch.cartesian_prod(*map(torch.arange, x.shape[1:])).tolist():
            weights = [math.exp(value) for value in params[(n, slice(None), *place)].tolist()]
            expected -= math.log(weights[x[(n, *place)]] / math.fsum(weights))
        assert nll_nats(likelihood, params, x)[n].item() == pytest.approx(expected, rel=1e-12)


def test_bernoulli_nats_are_minus_log_of_the_sigmoid():
    likelihood = Bernoulli()
    params, x = params_of(likelihood), levels_of(2)
    p_one = 1 / (1 + torch.exp(-params[:, 0]))
    expected = -torch.where(x == 1, p_one, 1 - p_one).log().sum((1, 2, 3))
    torch.testing.assert_close(nll_nats(likelihood, params, x), expected, rtol=1e-12, atol=0)


def test_bernoulli_is_the_softmax_of_zero_and_its_logit():
    params, x = params_of(Bernoulli()), levels_of(2)
    two = torch.cat([torch.zeros_like(params), params], dim=1)
    expected = nll_nats(Categorical(2), two, x)
    torch.testing.assert_close(nll_nats(Bernoulli(), params, x), expected, rtol=1e-12, atol=0)


def test_extreme_logits_stay_finite():
    x = torch.tensor([0, 1]).view(2, 1, 1, 1)
    nats = nll_nats(Bernoulli(), torch.full((2, 1, 1, 1, 1), 1e4), x)
    assert nats.tolist() == [1e4, 0.0]
    logits = torch.tensor([1e4, -1e4, 0.0]).view(1, 3, 1, 1, 1).expand(2, -1, -1, -1, -1)
    assert nll_nats(Categorical(3), logits, x).tolist() == [0.0, 2e4]


@pytest.mark.parametrize("num_levels", [2, 5])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_any_integer_type_of_levels_gives_the_same_nats(num_levels, dtype):
    likelihood = likelihood_for(num_levels)
    params = params_of(likelihood)
    expected = nll_nats(likelihood, params, levels_of(num_levels))
    assert torch.equal(nll_nats(likelihood, params, levels_of(num_levels, dtype=dtype)), expected)


@pytest.mark.parametrize(
    ("num_levels", "levels", "got"),
    [(2, [0, 2], r"\[0, 2\]"), (17, [3, 17], r"\[3, 17\]"), (17, [-1, 16], r"\[-1, 16\]")],
)
def test_levels_out_of_range_are_refused(num_levels, levels, got):
    likelihood = likelihood_for(num_levels)
    x = torch.tensor(levels).view(1, 1, 1, 2)
    text = rf"x must hold levels in \[0, {num_levels - 1}\], got {got}"
    with pytest.raises(ValueError, match=text):
        nll_nats(likelihood, params_of(likelihood, count=1, shape=(1, 1, 2)), x)


def test_no_image_has_no_nats():
    likelihood = Categorical(5)
    params = params_of(likelihood, count=0)
    nats = nll_nats(likelihood, params, levels_of(5, count=0))
    assert (nats.shape, nats.dtype) == ((0,), torch.float64)


@pytest.mark.parametrize("num_levels", [2, 256])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_short_parameters_are_computed_in_float32_and_summed_in_float64(num_levels, dtype):
    likelihood = likelihood_for(num_levels)
    shape = (3, 32, 32)
    params = params_of(likelihood, count=2, shape=shape, dtype=dtype)
    x = levels_of(num_levels, count=2, shape=shape)
    nats = nll_nats(likelihood, params, x)
    assert nats.dtype == torch.float64
    # the same short parameters, every operation in float64
    expected = nll_nats(likelihood, params.double(), x)
    torch.testing.assert_close(nats, expected, rtol=1e-7, atol=0)
    in_float64 = likelihood.nll_map(params.float(), x).double().flatten(1).sum(1)
    torch.testing.assert_close(nats, in_float64, rtol=1e-15, atol=0)


def test_the_choice_of_likelihood_follows_the_levels():
    assert isinstance(likelihood_for(2), Bernoulli)
    for num_levels in (3, 256):
        likelihood = likelihood_for(num_levels)
        assert isinstance(likelihood, Categorical)
        sizes = (likelihood.num_levels, likelihood.num_params, likelihood.noise_size)
        assert sizes == (num_levels,) * 3


# 1e-4 quantiles of chi-square
CHI_SQUARE = {1: 15.14, 4: 23.51, 16: 45.92}


def chi_square(drawn: torch.Tensor, probabilities: torch.Tensor) -> float:
    expected = probabilities * len(drawn)
    counts = torch.bincount(drawn, minlength=len(probabilities))
    return float(((counts - expected).square() / expected).sum())


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
@pytest.mark.parametrize("num_levels", [5, 17])
def test_frequencies_of_categorical_samples_are_the_probabilities(num_levels, temperature):
    logits = torch.linspace(-1, 1, num_levels, dtype=torch.float64).sin()
    noise = noise_of(100_000, num_levels)
    drawn = Categorical(num_levels).sample(
        logits.expand(len(noise), -1)[..., None], noise, given=NONE, temperature=temperature
    )
    probabilities = torch.exp(logits / temperature)
    probabilities /= probabilities.sum()
    assert drawn.dtype == torch.int64
    assert chi_square(drawn, probabilities) < CHI_SQUARE[num_levels - 1]


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
@pytest.mark.parametrize("logit", [-1.7, 0.0, 0.6])
def test_frequencies_of_bernoulli_samples_are_the_probabilities(logit, temperature):
    noise = noise_of(100_000, 2)
    drawn = Bernoulli().sample(
        torch.full((len(noise), 1, 1), logit, dtype=torch.float64),
        noise,
        given=NONE,
        temperature=temperature,
    )
    p_one = 1 / (1 + math.exp(-logit / temperature))
    probabilities = torch.tensor([1 - p_one, p_one], dtype=torch.float64)
    assert drawn.dtype == torch.int64
    assert chi_square(drawn, probabilities) < CHI_SQUARE[1]


@pytest.mark.parametrize("num_levels", [2, 5])
def test_a_temperature_near_zero_takes_the_likeliest_level(num_levels):
    likelihood = likelihood_for(num_levels)
    params = params_of(likelihood, count=500, shape=())
    noise = noise_of(500, likelihood.noise_size)
    drawn = likelihood.sample(params[..., None], noise, given=NONE, temperature=1e-6)
    likeliest = (params[:, 0] > 0).long() if num_levels == 2 else params.argmax(1)
    assert torch.equal(drawn, likeliest)


@pytest.mark.parametrize("num_levels", [2, 5])
def test_a_very_high_temperature_is_uniform(num_levels):
    likelihood = likelihood_for(num_levels)
    noise = noise_of(100_000, likelihood.noise_size)
    params = params_of(likelihood, count=1, shape=()).expand(len(noise), -1)
    drawn = likelihood.sample(params[..., None], noise, given=NONE, temperature=1e9)
    uniform = torch.full((num_levels,), 1 / num_levels, dtype=torch.float64)
    assert chi_square(drawn, uniform) < CHI_SQUARE[num_levels - 1]


def test_noise_of_a_seed_is_the_same_and_of_another_is_not():
    assert torch.equal(noise_of(5, 3, seed=1), noise_of(5, 3, seed=1))
    assert not torch.equal(noise_of(5, 3, seed=1), noise_of(5, 3, seed=2))
    assert noise_of(5, 3).dtype == torch.float64


def test_noise_has_the_moments_of_gumbel():
    noise = noise_of(200_000, 1).flatten()
    error = 5 * math.pi / math.sqrt(6 * len(noise))
    assert noise.mean().item() == pytest.approx(0.5772156649, abs=error)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, rel=0.03)
    assert torch.isfinite(noise).all()


def test_noise_is_finite_at_the_ends_of_the_uniform_draw(monkeypatch):
    ends = torch.tensor([0.0, 1 - 2**-53, 1.0], dtype=torch.float64)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: ends.clone())
    noise = gumbel_noise((3,), torch.Generator())
    assert torch.isfinite(noise).all()
    assert noise.tolist() == sorted(noise.tolist())
