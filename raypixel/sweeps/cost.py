"""What a sweep would cost, from one timed training step of each distinct model."""

import time

import torch

from raypixel.data import Manifest, num_levels_of
from raypixel.data.batches import Batch
from raypixel.errors import ConfigError
from raypixel.evaluation import batch_nll_nats
from raypixel.experiment import ExperimentConfig, build_experiment_model
from raypixel.models import PixelModel
from raypixel.sweeps.load import expected_manifest
from raypixel.sweeps.trials import Sweep, Trial

MAX_TIMED_IMAGES = 64
TIMED_SECONDS = 1.0
MAX_EXAMPLES = 8


def estimate_costs(sweep: Sweep) -> dict[str, float]:
    """Return the seconds of training of each trial on one core like this one, by label; validation is left out.

    Trials on images that are not prepared yet, and of a size not known, are left out, and models too large for this machine.
    """
    known: dict[str, float] = {}
    costs: dict[str, float] = {}
    for trial in listed_trials(sweep):
        manifest = expected_manifest(trial.config.data)
        if manifest is None:
            continue
        key = repr((trial.config.model, trial.config.training.precision))
        if key not in known:
            try:
                known[key] = seconds_per_image(trial.config, manifest)
            except (
                ConfigError
            ):  # too large for this machine, which need not be the one that trains it
                continue
        costs[trial.label] = known[key] * num_images(trial.config, manifest)
    return costs


def listed_trials(sweep: Sweep) -> tuple[Trial, ...]:
    """Return the trials to list: all of them, or some examples where results decide which there are."""
    if sweep.config.method == "bayes":
        return sweep.trials[: min(MAX_EXAMPLES, sweep.num_trials)]
    return sweep.trials


def num_images(config: ExperimentConfig, manifest: Manifest) -> int:
    """Return how many images a training looks at, an image of two epochs twice."""
    training, data = config.training, config.data
    of_epoch = manifest.splits["train"].num_images
    if data.max_train_images is not None:
        of_epoch = min(of_epoch, data.max_train_images)
    number = of_epoch * training.num_epochs
    return (
        number
        if training.max_steps is None
        else min(number, training.max_steps * training.batch_size)
    )


def seconds_per_image(config: ExperimentConfig, manifest: Manifest) -> float:
    """Time forward and backward passes of an untrained model on noise, on one thread: a batch, or as much of it as is quick."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = build_experiment_model(config, manifest)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        step_seconds(model, config, manifest, 1)  # warms up
        seconds = step_seconds(model, config, manifest, 1)
        size = min(config.training.batch_size, MAX_TIMED_IMAGES, int(TIMED_SECONDS / seconds))
        return seconds if size <= 1 else step_seconds(model, config, manifest, size) / size
    finally:
        torch.set_num_threads(num_threads)


def step_seconds(
    model: PixelModel, config: ExperimentConfig, manifest: Manifest, size: int
) -> float:
    """Time one forward and backward pass of a batch."""
    shape, num_levels = (size, *manifest.image_shape), num_levels_of(config.data, manifest)
    labels = torch.zeros(size, dtype=torch.int64) if manifest.num_classes else None
    batch = Batch(torch.randint(num_levels, shape, dtype=torch.uint8), labels, size)
    started = time.perf_counter()
    nats = batch_nll_nats(
        model, batch, device=torch.device("cpu"), precision=config.training.precision
    )
    nats.sum().backward()
    return time.perf_counter() - started
