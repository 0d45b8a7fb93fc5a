import math
from functools import reduce
from operator import add

import numpy as np
import pytest

from raypixel.units import Likelihood, bits_per_dim, duration


def likelihood_of(nats, num_dims: int = 12) -> Likelihood:
    return Likelihood(float(np.sum(nats)), float(np.sum(np.square(nats))), len(nats), num_dims)


def nats_of_images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).gamma(9.0, 10.0, count)


def test_one_bit_for_each_dimension_is_ln_2_nats_for_each_dimension():
    assert bits_per_dim(7 * 12 * math.log(2), 7, 12) == pytest.approx(1.0, rel=1e-15)
    assert bits_per_dim(0.0, 7, 12) == 0.0


@pytest.mark.parametrize("num_levels", [2, 17, 256])
def test_a_uniform_model_has_log2_of_the_levels(num_levels):
    uniform = likelihood_of(np.full(5, 12 * math.log(num_levels)))
    assert uniform.bits_per_dim == pytest.approx(math.log2(num_levels), rel=1e-14)


def test_published_units_of_binarized_mnist_agree():
    """81.30 nats of 784 dimensions (2016a, table 4) are 0.1496 bits/dim."""
    assert bits_per_dim(81.30, 1, 784) == pytest.approx(81.30 * math.log2(math.e) / 784, rel=1e-14)


@pytest.mark.parametrize("sizes", [(1,) * 20, (20,), (3, 17), (0, 5, 0, 15), (19, 1)])
def test_any_split_merges_to_the_whole(sizes):
    nats = np.round(nats_of_images(20))  # integers: their sums and squares are exact
    parts = np.split(nats, np.cumsum(sizes)[:-1])
    assert reduce(add, map(likelihood_of, parts)) == likelihood_of(nats)


def test_any_split_of_any_numbers_merges_to_the_whole_but_for_rounding():
    nats = nats_of_images(1000)
    parts = np.split(nats, np.sort(np.random.default_rng(1).integers(0, 1000, 30)))
    merged = reduce(add, map(likelihood_of, parts))
    assert merged.num_images == 1000
    assert merged.nll_nats == pytest.approx(math.fsum(nats), rel=1e-14)
    assert merged.squared_nats == pytest.approx(math.fsum(nats**2), rel=1e-14)


def test_the_mean_of_unequal_parts_is_not_the_mean_of_their_means():
    merged = likelihood_of([1.0]) + likelihood_of([4.0, 4.0])
    assert merged.nats_per_image == 3.0


@pytest.mark.parametrize("count", [2, 3, 50])
def test_standard_error_is_that_of_numpy(count):
    nats = nats_of_images(count)
    expected = nats.std(ddof=1) / math.sqrt(count)
    assert likelihood_of(nats).standard_error_nats == pytest.approx(expected, rel=1e-9)


def test_standard_error_of_one_image_is_zero():
    assert likelihood_of([81.3]).standard_error_nats == 0.0


def test_rounding_below_zero_variance_gives_a_standard_error_of_zero():
    squares = math.nextafter(3 * 0.1**2, 0.0)  # just below what equal images give
    assert Likelihood(3 * 0.1, squares, 3, 12).standard_error_nats == 0.0


def test_images_of_different_sizes_are_not_merged():
    with pytest.raises(ValueError, match="num_dims must agree, got 12 and 8"):
        likelihood_of([1.0]) + likelihood_of([1.0], num_dims=8)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.6, "1:00"), (754, "12:34"), (3599.5, "1:00:00"), (36061, "10:01:01")],
)
def test_durations_have_hours_only_where_there_are_some(seconds, text):
    assert duration(seconds) == text
