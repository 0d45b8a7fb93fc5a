"""What the laws do not say of Gated PixelCNN: the window, and classes."""

import pytest
import torch

from raypixel.errors import ConfigError
from raypixel.models import build_model
from raypixel.models.gated_pixelcnn import GatedPixelCNN
from tests.contract import random_model
from tests.receptive_fields import receptive_field

WINDOW = """
.........
.1111111.
.1111111.
.1111111.
.111.....
.........
"""


def test_receptive_field_is_a_rectangle_without_a_blind_spot():
    config = GatedPixelCNN.Config(num_layers=2, kernel_size=3, first_kernel_size=3)
    model = build_model(config, image_shape=(1, 6, 9), num_levels=2)
    expected = [[mark == "1" for mark in line] for line in WINDOW.split()]
    assert receptive_field(model, 4, 4).tolist() == expected


def test_even_kernel_is_refused():
    with pytest.raises(ValueError, match="must be odd, got 2"):
        GatedPixelCNN.Config(kernel_size=2)


def conditional(seed=0):
    config = GatedPixelCNN.Config(
        hidden_size=6, num_layers=2, output_size=8, use_class_conditioning=True
    )
    return random_model(config, image_shape=(3, 4, 3), num_levels=4, num_classes=3, seed=seed)


def test_class_changes_the_parameters_of_every_sub_pixel():
    x = torch.zeros(3, 3, 4, 3, dtype=torch.uint8)
    differs = torch.zeros(2, 3, 4, 3, dtype=torch.bool)
    for seed in range(6):  # a dead unit hides a path in one model, not in six
        params = conditional(seed)(x, torch.arange(3))
        differs |= (params[1:] != params[0]).any(1)
    assert differs.all()


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_class_enters_every_layer(layer):
    model = conditional()
    x = torch.zeros(1, 3, 4, 3, dtype=torch.uint8)
    before = model(x, torch.tensor([1]))
    with torch.no_grad():
        [model.first, *model.stack.layers][layer].classes.weight[1].zero_()
    assert (model(x, torch.tensor([1])) != before).any()


def test_class_labels_must_be_given_to_a_conditional_model():
    with pytest.raises(ValueError, match="class_labels must be given, one of 3 per image"):
        conditional()(torch.zeros(1, 3, 4, 3, dtype=torch.uint8))


def test_class_conditioning_needs_data_with_classes():
    config = GatedPixelCNN.Config(use_class_conditioning=True)
    with pytest.raises(ConfigError, match="use_class_conditioning must be false for data without"):
        build_model(config, image_shape=(1, 4, 4), num_levels=2, num_classes=0)
