from pathlib import Path

import pytest

from raypixel.config import dump_yaml, parse, parse_yaml
from raypixel.data import DataConfig, describe_levels
from raypixel.errors import ConfigError


def test_yaml_round_trip_gives_an_equal_config():
    config = DataConfig(name="mnist", root=Path("elsewhere"), num_levels=4, max_train_images=7)
    assert parse(DataConfig, parse_yaml(dump_yaml(config), where="y"), where="y") == config


def test_whatever_a_likelihood_depends_on_is_said():
    assert describe_levels(DataConfig(name="mnist"), 256) == "256 levels"
    drawn = DataConfig(name="mnist", binarization="stochastic", augment="shift")
    text = "2 levels, stochastic binarization, trained on shifted images"
    assert describe_levels(drawn, 2) == text


def test_root_may_be_text():
    assert DataConfig(name="mnist", root="d").root == Path("d")


@pytest.mark.parametrize(
    ("mapping", "text"),
    [
        ({"num_levels": 1}, r"num_levels must be greater than or equal to 2, got 1"),
        ({"num_levels": 257}, r"num_levels must be less than or equal to 256, got 257"),
        ({"max_eval_images": 0}, r"max_eval_images must be greater than or equal to 1, got 0"),
        ({"binarization": "soft"}, r"binarization must be 'none', .*got 'soft'"),
        (
            {"num_levels": 4, "binarization": "fixed"},
            r"num_levels must be null with binarization 'fixed', got 4",
        ),
        (
            {"binarisation": "fixed"},
            r"binarisation is not a known key, did you mean 'binarization'",
        ),
    ],
)
def test_impossible_options_are_one_line(mapping, text):
    with pytest.raises(ConfigError, match=text) as caught:
        parse(DataConfig, {"name": "mnist"} | mapping, where="x.yaml")
    assert len(caught.value.problems) == 1
