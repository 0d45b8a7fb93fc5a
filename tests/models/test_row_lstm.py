"""What the laws do not say of Row LSTM: the triangle drawn by hand, and the errors."""

import pytest
import torch

from raypixel.config import parse
from raypixel.errors import ConfigError
from raypixel.models import build_model, validate_model_config
from raypixel.models.row_lstm import RowLSTM
from tests.receptive_fields import receptive_field

TRIANGLE = """
11111111.
1111111..
111111...
11111....
.11......
.........
"""


def test_receptive_field_is_the_triangle_of_the_paper():
    config = RowLSTM.Config(hidden_size=4, num_layers=1, first_kernel_size=3)
    model = build_model(config, image_shape=(1, 6, 9), num_levels=2)
    expected = [[mark == "1" for mark in line] for line in TRIANGLE.split()]
    assert receptive_field(model, 4, 3).tolist() == expected


@pytest.mark.parametrize("kind", ["row_lstm", "diagonal_bilstm", "gated_pixelcnn"])
def test_even_kernels_are_refused(kind):
    config_class = type(build_config(kind))
    with pytest.raises(ConfigError, match="x: first_kernel_size must be odd, got 4"):
        parse(config_class, {"kind": kind, "first_kernel_size": 4}, where="x")


@pytest.mark.parametrize("kind", ["row_lstm", "diagonal_bilstm", "gated_pixelcnn"])
def test_class_labels_are_refused_without_class_conditioning(kind):
    model = build_model(build_config(kind), image_shape=(1, 3, 3), num_levels=2, num_classes=3)
    with pytest.raises(ValueError, match=r"class_labels must be None, .* not class-conditional"):
        model(torch.zeros(1, 1, 3, 3, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))


def test_fewer_features_than_colors_are_refused():
    config = RowLSTM.Config(hidden_size=2, num_layers=1)
    with pytest.raises(ConfigError, match=r"at least .*3 colors, got 2"):
        build_model(config, image_shape=(3, 4, 4), num_levels=4)


def build_config(kind):
    return validate_model_config({"kind": kind, "hidden_size": 4, "num_layers": 1})
