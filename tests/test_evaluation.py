import math
from collections import Counter

import numpy as np
import pytest
import torch

import raypixel
from raypixel.data import DataConfig, Manifest, Origin
from raypixel.data.batches import Batch, EvalBatches
from raypixel.data.splits import Split, read_split
from raypixel.errors import CheckpointError
from raypixel.evaluation import (
    batch_nll_nats,
    evaluate,
    evaluate_splits,
    histogram_baseline,
    mixture_nats,
    uniform_baseline,
)
from raypixel.models import PixelModel
from raypixel.models.pixelcnn import PixelCNN
from raypixel.nn.likelihoods import Categorical
from raypixel.runs import find_checkpoint
from tests.contract import random_model
from tests.trained import train_into

CPU = torch.device("cpu")
SHAPE = (3, 4, 5)
NUM_LEVELS = 6


def images_of(count: int, *, shape=SHAPE, num_levels=NUM_LEVELS, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, num_levels, (count, *shape), generator=generator, dtype=torch.uint8)


def model_of() -> PixelModel:
    config = PixelCNN.Config(hidden_size=6, num_layers=2, output_size=8)
    return random_model(config, image_shape=SHAPE, num_levels=NUM_LEVELS)


def batches_of(count: int, batch_size: int, *, rank=0, world_size=1) -> EvalBatches:
    manifest = Manifest(
        name="set",
        format_version=1,
        image_shape=SHAPE,
        num_levels=NUM_LEVELS,
        num_classes=10,
        class_names=tuple("0123456789"),
        splits={},
        origin=Origin(source="test"),
    )
    split = Split(images=images_of(count), class_labels=torch.arange(count) % 10)
    return EvalBatches(
        split,
        DataConfig(name="set"),
        manifest,
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
    )


class Labeled(PixelModel):
    """Logit of level k is the class label where k is 1, and zero elsewhere."""

    image_shape, num_levels, num_classes = (1, 1, 2), 3, 10
    likelihood = Categorical(3)

    def __init__(self):
        super().__init__()
        self.modes = []

    def forward(self, x, class_labels=None):
        self.modes.append(self.training)
        logits = torch.zeros(len(x), 3, 1, 1, 2)
        logits[:, 1] = class_labels.view(-1, 1, 1, 1).float()
        return logits

    def stages(self):
        raise NotImplementedError


def test_likelihood_is_that_of_a_loop_over_images_and_dimensions():
    model, images = model_of(), images_of(7)
    nats = []
    with torch.no_grad():
        for image in images:
            log_p = torch.log_softmax(model(image[None])[0], dim=0)  # (K, C, H, W)
            nats.append(0.0)
            for c in range(3):
                for i in range(4):
                    for j in range(5):
                        nats[-1] -= log_p[int(image[c, i, j]), c, i, j].item()
    found = evaluate(model, batches_of(7, 3), device=CPU)
    assert (found.num_images, found.num_dims) == (7, 60)
    assert found.nll_nats == pytest.approx(math.fsum(nats), rel=1e-12)
    assert found.bits_per_dim == pytest.approx(np.mean(nats) / 60 / math.log(2), rel=1e-12)
    expected = np.std(nats, ddof=1) / math.sqrt(7)
    assert found.standard_error_nats == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 11, 100])
def test_batch_size_does_not_matter(batch_size):
    model = model_of()
    found = evaluate(model, batches_of(11, batch_size), device=CPU)
    expected = evaluate(model, batches_of(11, 11), device=CPU)
    assert found.num_images == 11
    assert found.nll_nats == pytest.approx(expected.nll_nats, rel=1e-13)
    assert found.squared_nats == pytest.approx(expected.squared_nats, rel=1e-13)


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_shares_of_the_workers_sum_to_the_whole(world_size):
    model = model_of()
    whole = evaluate(model, batches_of(11, 4), device=CPU)
    total = evaluate(model, [], device=CPU)
    for rank in range(world_size):
        batches = batches_of(11, 4, rank=rank, world_size=world_size)
        total += evaluate(model, batches, device=CPU)
    assert total.num_images == 11
    assert total.nll_nats == pytest.approx(whole.nll_nats, rel=1e-13)


def test_class_labels_go_to_a_model_that_wants_them():
    x = torch.tensor([1, 2], dtype=torch.uint8).view(1, 1, 1, 2)
    for label in (0, 3):
        found = evaluate(Labeled(), [Batch(x, torch.tensor([label]), 1)], device=CPU)
        expected = 2 * math.log(2 + math.exp(label)) - label
        assert found.nll_nats == pytest.approx(expected, rel=1e-6)


def test_class_labels_are_kept_from_a_model_that_wants_none():
    batch = Batch(images_of(2), torch.arange(2), 2)  # PixelCNN refuses labels
    nats = batch_nll_nats(model_of(), batch, device=CPU, precision="float32")
    assert (nats.shape, nats.dtype) == ((2,), torch.float64)


@pytest.mark.parametrize("is_training", [True, False])
def test_a_model_is_evaluated_in_evaluation_mode_and_left_in_its_own(is_training):
    model = Labeled().train(is_training)
    x = torch.zeros((1, 1, 1, 2), dtype=torch.uint8)
    evaluate(model, [Batch(x, torch.zeros(1).long(), 1)], device=CPU)
    assert model.modes == [False]
    assert model.training is is_training

    def broken():
        yield from ()
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        evaluate(model, broken(), device=CPU)
    assert model.training is is_training


def test_no_gradient_is_kept():
    model = model_of()
    evaluate(model, batches_of(3, 2), device=CPU)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_progress_counts_the_images():
    counts = []
    evaluate(model_of(), batches_of(11, 4), device=CPU, progress=counts.append)
    assert counts == [4, 4, 3]


def test_bf16_is_near_float32_and_summed_in_float64():
    model = model_of().float()
    exact = evaluate(model, batches_of(11, 4), device=CPU)
    short = evaluate(model, batches_of(11, 4), device=CPU, precision="bf16")
    assert short.nll_nats == pytest.approx(exact.nll_nats, rel=0.02)
    assert short.nll_nats != exact.nll_nats
    batch = Batch(images_of(2), None, 2)
    nats = batch_nll_nats(model, batch, device=CPU, precision="bf16")
    assert nats.dtype == torch.float64


def test_uniform_baseline_is_log2_of_the_levels_in_each_dimension():
    found = uniform_baseline(images_of(5), num_levels=NUM_LEVELS)
    assert found.bits_per_dim == pytest.approx(math.log2(NUM_LEVELS), rel=1e-14)
    assert (found.num_images, found.num_dims) == (5, 60)
    assert found.standard_error_nats == pytest.approx(0.0, abs=1e-5)


def test_histogram_baseline_counts_each_dimension_alone_with_one_added():
    train, images = images_of(13, seed=1), images_of(5, seed=2)
    nats = []
    for image in images.flatten(1).tolist():
        nats.append(0.0)
        for dimension, level in enumerate(image):
            counts = Counter(train.flatten(1)[:, dimension].tolist())
            nats[-1] -= math.log((counts[level] + 1) / (13 + NUM_LEVELS))
    found = histogram_baseline(train, images, num_levels=NUM_LEVELS)
    assert (found.num_images, found.num_dims) == (5, 60)
    assert found.nll_nats == pytest.approx(math.fsum(nats), rel=1e-12)
    expected = np.std(nats, ddof=1) / math.sqrt(5)
    assert found.standard_error_nats == pytest.approx(expected, rel=1e-9)


def test_histogram_baseline_is_a_density():
    """Over every image of two dimensions with three levels, the probabilities sum to one."""
    train = images_of(9, shape=(1, 1, 2), num_levels=3)
    every = torch.cartesian_prod(torch.arange(3), torch.arange(3)).view(-1, 1, 1, 2)
    nats = [histogram_baseline(train, x[None], num_levels=3).nll_nats for x in every]
    assert math.fsum(math.exp(-value) for value in nats) == pytest.approx(1.0, rel=1e-14)


def test_histogram_baseline_without_train_images_is_uniform():
    images = images_of(5)
    found = histogram_baseline(images[:0], images, num_levels=NUM_LEVELS)
    expected = uniform_baseline(images, num_levels=NUM_LEVELS)
    assert found.nll_nats == pytest.approx(expected.nll_nats, rel=1e-13)


def test_histogram_refuses_levels_that_it_has_no_bin_for():
    x = torch.full((2, 1, 2, 2), 7)
    with pytest.raises(ValueError, match=r"x must hold levels in \[0, 1\], got 7"):
        histogram_baseline(x, x, num_levels=2)


def test_a_mixture_is_the_mean_of_the_probabilities():
    nats = torch.tensor([[1.0, 70.0, 2000.0], [2.0, 90.0, 1990.0]], dtype=torch.float64)
    found = mixture_nats(nats)
    assert found[0] == pytest.approx(-math.log((math.exp(-1) + math.exp(-2)) / 2), rel=1e-14)
    assert found[1] == pytest.approx(70 + math.log(2) - math.exp(-20), rel=1e-14)
    assert found[2] == pytest.approx(1990 + math.log(2) - math.log1p(math.exp(-10)), rel=1e-14)
    assert torch.equal(mixture_nats(nats[:1]), nats[0])


def test_several_checkpoints_are_scored_alone_and_as_a_mixture(tiny, digits, tmp_path):
    for seed, name in ((0, "one"), (1, "other")):
        train_into(tmp_path / name, tiny(training__seed=seed), digits)
    models = [raypixel.load(tmp_path / name) for name in ("one", "other")]
    found = evaluate_splits(
        [model.checkpoint for model in models],
        "test",
        root=None,
        device_name="cpu",
        progress=lambda _: lambda _: None,
    )
    x = read_split(tiny().data.root, "digits", "test").images[:50]
    each = torch.stack([model.nll_nats(x) for model in models])
    mixed = -torch.exp(-each).mean(0).log()
    assert [e.checkpoint for e in found] == [*(m.checkpoint.path for m in models), None]
    for evaluation, nats in zip(found, [*each, mixed], strict=True):
        likelihood = evaluation.likelihood
        assert likelihood.num_images == 50
        assert likelihood.nats_per_image == pytest.approx(float(nats.mean()), rel=1e-6)
        error = float(nats.std()) / math.sqrt(50)
        assert likelihood.standard_error_nats == pytest.approx(error, rel=1e-4)
    assert found[2].to_mapping()["checkpoint"] == "mixture"


def test_models_of_other_data_are_not_mixed(tiny, digits, tmp_path):
    train_into(tmp_path / "one", tiny(training__max_steps=1), digits)
    config = tiny(training__max_steps=1, data__num_levels=4, data__max_eval_images=20)
    train_into(tmp_path / "other", config, digits)
    places = [find_checkpoint(tmp_path / name) for name in ("one", "other")]
    with pytest.raises(CheckpointError) as caught:
        evaluate_splits(
            places, "test", root=None, device_name="cpu", progress=lambda _: lambda _: None
        )
    one, other = (place.path for place in places)
    assert caught.value.problems == (
        f"{other}: data.num_levels must be None as of {one}, got 4",
        f"{other}: data.max_eval_images must be 50 as of {one}, got 20",
    )
