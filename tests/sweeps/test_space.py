"""Distributions by their quantiles, and conditions by their truth tables."""

import math
import random
import statistics

import pytest
from pydantic import ValidationError

from raypixel.sweeps.constraints import Constraint
from raypixel.sweeps.space import Parameter

QUANTILES = [(k + 0.5) / 2000 for k in range(2000)]


def values(**fields) -> list:
    parameter = Parameter.model_validate(fields)
    return [parameter.draw(u) for u in QUANTILES]


def counts(drawn: list) -> dict:
    return {value: drawn.count(value) for value in sorted(set(drawn))}


def test_whole_numbers_are_drawn_equally_often_both_ends_included():
    assert counts(values(min=3, max=6)) == {3: 500, 4: 500, 5: 500, 6: 500}
    assert all(type(value) is int for value in values(min=3, max=6))


def test_values_are_drawn_equally_often_or_with_their_probabilities():
    assert counts(values(values=[1, 2])) == {1: 1000, 2: 1000}
    drawn = values(values=[1, 2, 3], probabilities=[0.1, 0.6, 0.3])
    assert counts(drawn) == {1: 200, 2: 1200, 3: 600}


def test_uniform_is_uniform():
    drawn = values(min=1.0, max=3.0)
    assert statistics.fmean(drawn) == pytest.approx(2.0)
    assert (min(drawn), max(drawn)) == (pytest.approx(1, abs=1e-3), pytest.approx(3, abs=1e-3))


@pytest.mark.parametrize(
    "fields",
    [
        {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
        {"distribution": "log_uniform", "min": math.log(1e-4), "max": math.log(1e-2)},
    ],
)
def test_the_logarithm_of_log_uniform_is_uniform(fields):
    logs = [math.log10(value) for value in values(**fields)]
    assert statistics.fmean(logs) == pytest.approx(-3)
    assert statistics.median(logs) == pytest.approx(-3)
    assert (min(logs), max(logs)) == (pytest.approx(-4, abs=2e-3), pytest.approx(-2, abs=2e-3))


def test_quantized_values_are_multiples():
    assert set(values(distribution="q_uniform", min=0.0, max=0.5, q=0.1)) == {
        0.0,
        0.1,
        0.2,
        0.3,
        0.4,
        0.5,
    }
    whole = values(distribution="q_log_uniform_values", min=8, max=64, q=8)
    assert set(whole) == {8, 16, 24, 32, 40, 48, 56, 64}
    assert all(type(value) is int for value in whole)


def test_normal_has_its_mean_and_deviation():
    drawn = values(distribution="normal", mu=2.0, sigma=3.0)
    assert statistics.fmean(drawn) == pytest.approx(2, abs=1e-6)
    assert statistics.pstdev(drawn) == pytest.approx(3, abs=0.02)
    logs = [math.log(v) for v in values(distribution="log_normal", mu=2.0, sigma=3.0)]
    assert logs == pytest.approx(drawn)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"min": 3, "max": 3}, "min must be below max, got 3 and 3"),
        ({"distribution": "int_uniform", "min": 0.5, "max": 3}, "must be whole numbers"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 3}, "min must be above 0, got 0"),
        ({"distribution": "q_uniform", "min": 0, "max": 3}, "must have `min`, `max` and `q`"),
        ({"distribution": "normal", "min": 0}, "must have `mu` and `sigma`, or none, got min"),
        ({"values": [1, 2], "probabilities": [0.5, 0.6]}, "must sum to 1, got 1.1"),
        ({"values": [1, 2], "probabilities": [1.0]}, "must be one for each value"),
        ({"min": 1, "max": 2, "probabilities": [1.0]}, "must have `values` beside"),
    ],
)
def test_what_is_no_distribution_is_refused(fields, problem):
    with pytest.raises(ValidationError, match=problem):
        Parameter.model_validate(fields)


@pytest.mark.parametrize(
    "text",
    [
        "a.b >= 2 or not c",
        "not c and a.b in [1, 3]",
        "a.b * 2 + 1 < 6 and c == true",
        "c != (a.b % 2 == 0)",
        "1 < a.b <= 3 and -a.b > -3",
        "d == null and a.b not in (1, 2)",
    ],
)
def test_a_condition_is_what_python_makes_of_it(text):
    constraint = Constraint(text)
    python = text.replace("a.b", "ab").replace("true", "True").replace("null", "None")
    truths = set()
    for number in range(5):
        for flag in (True, False):
            expected = eval(python, {"ab": number, "c": flag, "d": None})
            assert constraint.holds({"a.b": number, "c": flag}) == expected
            truths.add(expected)
    assert truths == {True, False}


def test_a_condition_knows_its_options():
    assert Constraint("a.b.c > 1 and (d or e == true)").names == {"a.b.c", "d", "e"}


@pytest.mark.parametrize(
    "text", ["f(1)", "a[0]", "(lambda: 1)", "a if b else c", "{1: 2}", "f().x"]
)
def test_a_condition_is_no_program(text):
    with pytest.raises(ValueError, match="must use comparisons, arithmetic"):
        Constraint(text)


def test_draws_of_a_seeded_generator_repeat():
    parameter = Parameter(min=0.0, max=1.0)
    one, other = ([parameter.draw(random.Random(seed).random())] for seed in (7, 7))
    assert one == other
