"""The oracle, held to a sampler written out in numpy, and what all samplers share."""

import functools
import math

import numpy as np
import pytest
import torch
from torch import nn

from raypixel.models import PixelModel
from raypixel.models.pixelcnn import PixelCNN
from raypixel.nn.likelihoods import Categorical
from raypixel.sampling import image_noise, image_seeds
from raypixel.sampling import sample as sample_with
from tests.contract import random_model

sample = functools.partial(sample_with, sampler="oracle")
CASES = pytest.mark.parametrize(
    ("image_shape", "num_levels"), [((1, 3, 4), 2), ((3, 2, 3), 5), ((1, 2, 2), 256)]
)


def model_of(image_shape, num_levels) -> PixelModel:
    config = PixelCNN.Config(hidden_size=6, num_layers=1, output_size=8)
    return random_model(config, image_shape=image_shape, num_levels=num_levels)


def naive_image(model, seed: int, temperature: float) -> torch.Tensor:
    """One image, one dimension after another, from plain probabilities: Gumbel-max written out with numpy."""
    channels, height, width = model.image_shape
    num_levels = model.num_levels
    generator = torch.Generator().manual_seed(seed)
    shape = (channels * height * width, num_levels)
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64).numpy()
    gumbel = (-np.log(-np.log(uniform))).astype(np.float32)
    x = torch.zeros(1, channels, height, width, dtype=torch.int64)
    for dimension in range(channels * height * width):
        pixel, c = divmod(dimension, channels)
        i, j = divmod(pixel, width)
        with torch.no_grad():
            params = model(x)[0, :, c, i, j].numpy()
        logits = np.array([0.0, params[0]]) if num_levels == 2 else params
        scores = logits / temperature + gumbel[dimension]
        x[0, c, i, j] = max(range(num_levels), key=lambda level: scores[level])
    return x[0]


@CASES
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_samples_are_those_of_a_naive_sampler(image_shape, num_levels, temperature):
    model = model_of(image_shape, num_levels)
    seeds = image_seeds(3, 4)
    found = sample(model, seeds, temperature=temperature)
    expected = torch.stack([naive_image(model, seed, temperature) for seed in seeds])
    assert (found.dtype, found.shape) == (torch.uint8, (4, *image_shape))
    assert torch.equal(found.long(), expected)
    assert len(found.flatten(1).unique(dim=0)) > 1


def test_seed_of_an_image_depends_on_the_request_and_its_number_only():
    assert image_seeds(5, 3) == image_seeds(5, 100)[:3]
    seeds = [seed for request in range(50) for seed in image_seeds(request, 50)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert image_seeds(5, 0) == []


def test_seeds_are_pinned():
    """Pictures name their seed: the same one must give the same image in later versions."""
    expected = [8460147692890830636, 3317731564112288844, 9139555415570476218]
    assert image_seeds(7, 3) == expected


@CASES
def test_noise_of_an_image_has_a_row_for_each_dimension(image_shape, num_levels):
    model = model_of(image_shape, num_levels)
    noise = image_noise(model, 1)
    assert (noise.dtype, noise.shape) == (torch.float32, (math.prod(image_shape), num_levels))
    assert torch.equal(image_noise(model, 1), noise)
    assert not torch.equal(image_noise(model, 2), noise)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_that_is_not_positive_and_finite_is_refused(temperature):
    with pytest.raises(
        ValueError, match=f"temperature must be positive and finite, got {temperature}"
    ):
        sample(model_of((1, 2, 2), 2), [1], temperature=temperature)


def test_a_temperature_near_zero_takes_the_likeliest_level_of_each_dimension():
    model = model_of((1, 3, 3), 5)
    found = sample(model, image_seeds(0, 3), temperature=1e-6)
    assert len(found.flatten(1).unique(dim=0)) == 1
    x = found[:1]
    with torch.no_grad():
        assert torch.equal(model(x).argmax(1), x.long())


class Recorder(PixelModel):
    """Almost surely draws the class label of each image; notes how it is called."""

    image_shape, num_levels, num_classes = (1, 2, 2), 4, 4
    likelihood = Categorical(4)

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1e6))
        self.calls = []

    def forward(self, x, class_labels=None):
        self.calls.append((self.training, torch.is_grad_enabled(), len(x)))
        logits = self.weight * nn.functional.one_hot(class_labels, 4)
        return logits[:, :, None, None, None].expand(-1, -1, 1, 2, 2)

    def stages(self):
        raise NotImplementedError


def test_class_labels_follow_their_images_through_batches():
    labels = torch.tensor([3, 1, 0, 2, 1])
    found = sample(Recorder(), image_seeds(0, 5), class_labels=labels, batch_size=2)
    assert torch.equal(found.long(), labels.view(5, 1, 1, 1).expand(-1, 1, 2, 2))


@pytest.mark.parametrize("is_training", [True, False])
def test_a_model_samples_in_evaluation_mode_without_gradients_and_is_left_in_its_own(is_training):
    model = Recorder().train(is_training)
    steps = []
    labels = torch.zeros(3, dtype=torch.int64)
    sample(model, [1, 2, 3], class_labels=labels, batch_size=2, progress=steps.append)
    assert model.calls == [(False, False, 2)] * 4 + [(False, False, 1)] * 4
    assert steps == [1] * 8
    assert model.training is is_training
    with pytest.raises(TypeError):  # a class-conditional model without labels
        sample(model, [1])
    assert model.training is is_training


def test_no_seed_is_no_image():
    found = sample(model_of((3, 2, 3), 5), [])
    assert (found.dtype, found.shape) == (torch.uint8, (0, 3, 2, 3))
