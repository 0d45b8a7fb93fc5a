"""Dropout: which features are dropped, and what becomes of the others."""

import shutil

import pytest
import torch
from torch import nn

from raypixel.nn.dropout import Dropout, kept


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.93])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_features_are_dropped_with_the_probability_and_their_mean_stays(probability, dtype):
    torch.manual_seed(0)
    factors = kept(torch.ones(40, 50, 20, 11, dtype=dtype), probability)
    assert factors.dtype == dtype
    assert len(factors.unique()) == 2
    assert factors.max().item() == pytest.approx(1 / (1 - probability), rel=5e-3)
    assert (factors == 0).double().mean().item() == pytest.approx(probability, abs=3e-3)
    assert factors.double().mean().item() == pytest.approx(1, abs=2e-2)


def test_each_feature_is_dropped_whatever_the_others_are():
    """Any two of eight neighbours are both dropped in 0.09 of the draws, in the first as in the second half of a word."""
    torch.manual_seed(0)
    dropped = (kept(torch.ones(50_000, 8), 0.3) == 0).double()
    both = dropped.T @ dropped / len(dropped)
    expected = torch.full((8, 8), 0.09, dtype=torch.float64).fill_diagonal_(0.3)
    torch.testing.assert_close(both, expected, rtol=0, atol=8e-3)


@pytest.mark.parametrize("shape", [(1,), (7, 2), (2, 3, 5, 3), (2, 1, 5, 3), (2, 3, 1, 1)])
def test_a_map_of_any_shape_keeps_its_memory_format(shape):
    x = torch.ones(shape)
    memories = [x] if len(shape) < 4 else [x, x.contiguous(memory_format=torch.channels_last)]
    for each in memories:
        y = Dropout(0.5)(each)
        assert y.shape == shape
        assert y.stride() == each.stride()
        torch.library.opcheck(kept, (each, 0.5), test_utils="test_faketensor")
    assert Dropout(0.5)(torch.ones(0, 3, 4, 5)).shape == (0, 3, 4, 5)


def test_what_was_dropped_has_no_gradient():
    x = torch.randn(3, 4, 5, 6, requires_grad=True)
    torch.manual_seed(3)
    y = Dropout(0.4)(x)
    y.sum().backward()
    torch.manual_seed(3)
    assert torch.equal(x.grad, kept(x.detach(), 0.4))
    assert torch.equal(y, x * x.grad)


def test_evaluation_and_a_probability_of_zero_change_and_draw_nothing():
    x = torch.randn(3, 4)
    before = torch.get_rng_state()
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x
    assert torch.equal(torch.get_rng_state(), before)


def test_the_highest_probability_below_one_stays_finite():
    assert torch.isfinite(kept(torch.ones(1000), 1 - 1e-12)).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # the compiler's own
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs g++")
def test_a_compiled_network_drops_what_the_plain_one_does():
    network = nn.Sequential(nn.Linear(6, 6), Dropout(0.5), nn.Linear(6, 6), Dropout(0.5))
    found = []
    for each in (network, torch.compile(network, dynamic=False)):
        torch.manual_seed(1)
        y = each(torch.ones(5, 6))
        found.append(y == 0)
        (gradient,) = torch.autograd.grad(y.sum(), network[0].weight)
        found.append(gradient)
    assert torch.equal(found[0], found[2])
    torch.testing.assert_close(found[1], found[3])
