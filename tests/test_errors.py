import pickle

import pytest

from raypixel.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    RaypixelError,
    StorageError,
    TrainingError,
    did_you_mean,
)


@pytest.mark.parametrize(
    "kind", [ConfigError, DataError, CheckpointError, StorageError, TrainingError]
)
def test_every_error_is_one_that_the_command_line_prints(kind):
    with pytest.raises(RaypixelError, match=r"^x must be odd, got 4$"):
        raise kind("x must be odd, got 4")


def test_one_text_is_one_problem_and_not_its_letters():
    assert ConfigError("bad").problems == ("bad",)


def test_several_problems_are_several_lines():
    error = ConfigError(["a must be odd", "b must be even"])
    assert error.problems == ("a must be odd", "b must be even")
    assert str(error) == "a must be odd\nb must be even"


def test_an_error_keeps_its_problems_between_processes():
    for problems in ("one", ["one", "two"]):
        error = pickle.loads(pickle.dumps(DataError(problems)))
        assert isinstance(error, DataError)
        assert error.problems == DataError(problems).problems


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("hiden_size", ", did you mean 'hidden_size'?"),
        ("hidden_size", ", did you mean 'hidden_size'?"),
        ("num_layer", ", did you mean 'num_layers'?"),
        ("zzz", ""),
        ("", ""),
    ],
)
def test_the_closest_known_word_is_proposed(word, text):
    assert did_you_mean(word, ["num_layers", "hidden_size"]) == text


def test_nothing_is_proposed_where_nothing_is_known():
    assert did_you_mean("hidden_size", iter(())) == ""
