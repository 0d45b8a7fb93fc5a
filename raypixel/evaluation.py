"""Exact likelihood of a model over a data set, or of a checkpoint over its own: nats and counts are summed, then divided once."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raypixel.checkpoint import Checkpoint
from raypixel.data import (
    DataConfig,
    Manifest,
    decide_residence,
    describe_levels,
    load_manifest,
)
from raypixel.data.batches import Batch, EvalBatches, ImageSource
from raypixel.data.levels import fix_levels
from raypixel.data.splits import Split, read_split
from raypixel.data.stream import open_split as open_source
from raypixel.errors import CheckpointError, RaypixelError
from raypixel.experiment import parse_experiment
from raypixel.models import PixelModel
from raypixel.nn.likelihoods import nll_nats
from raypixel.storage import Location
from raypixel.units import Likelihood


def evaluate(
    model: PixelModel,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    precision: str = "float32",
    progress: Callable[[int], None] | None = None,
) -> Likelihood:
    """Sum the nats of every image in the batches.

    Args:
        model: A registered model; it is left in the mode it was in.
        batches: For example `EvalBatches`; with several workers each sums its own share.
        device: Where the model lives.
        precision: "float32", or "bf16" for autocast.
        progress: Called with the number of images after each batch.

    Returns:
        Sums and counts; `bits_per_dim` and `nats_per_image` are its properties.
    """
    total = Likelihood(0.0, 0.0, 0, math.prod(model.image_shape))
    for nats in each_nats(model, batches, device=device, precision=precision, progress=progress):
        total += likelihood_of(nats, total.num_dims)
    return total


@torch.no_grad()
def each_nats(
    model: PixelModel,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    precision: str = "float32",
    progress: Callable[[int], None] | None = None,
) -> Iterator[Tensor]:
    """Yield the nats of each image, (n,) float64, batch by batch; see `evaluate`."""
    was_training = model.training
    model.eval()
    try:
        for batch in batches:
            nats = batch_nll_nats(model, batch, device=device, precision=precision)
            yield nats
            if progress:
                progress(len(nats))
    finally:
        model.train(was_training)


def likelihood_of(nats: Tensor, num_dims: int) -> Likelihood:
    """Sum the nats of images, (n,) float64."""
    return Likelihood(float(nats.sum()), float(nats.square().sum()), len(nats), num_dims)


def mixture_nats(nats: Tensor) -> Tensor:
    """Return the nats of images under an equal mixture of models, (N,), from those under each, (models, N).

    The mixture has p(x) = mean over models of p(x | model); in nats that is taken as a log of a sum of exponentials, because
    exp(-80) of some models may be nothing beside exp(-70) of others.
    """
    return math.log(len(nats)) - torch.logsumexp(-nats, dim=0)


def batch_nll_nats(
    model: PixelModel,
    batch: Batch,
    *,
    device: torch.device,
    precision: str,
    network: nn.Module | None = None,
) -> Tensor:
    """Return the nats of each image of a batch, (n,), float64, on the device.

    Args:
        model: A registered model.
        batch: Images; class labels go to models that want them.
        device: Where the model lives.
        precision: "float32", or "bf16" for autocast.
        network: What is called in the model's place: the model inside DDP or `torch.compile`.
    """
    labels = batch.class_labels if model.num_classes else None
    x = _move(batch.x, device)
    labels = None if labels is None else _move(labels, device)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        params = (model if network is None else network)(x, labels)
    return nll_nats(model.likelihood, params, x)


def _move(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to the device, to a GPU through pinned memory: from other memory the host would wait for it."""
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


@torch.no_grad()
def nats_map(model: PixelModel, x: Tensor, class_labels: Tensor | None = None) -> Tensor:
    """Return how much each sub-pixel surprises a model, in nats, (N, C, H, W), on the CPU.

    Args:
        model: A registered model in evaluation mode.
        x: Levels, (N, C, H, W).
        class_labels: (N,) int64 for a class-conditional model.
    """
    device = next(model.parameters()).device
    labels = None if class_labels is None else class_labels.to(device)
    x = x.to(device)
    return model.likelihood.nll_map(model(x, labels), x).cpu()


def uniform_baseline(x: Tensor, *, num_levels: int) -> Likelihood:
    """Return the likelihood of images (N, C, H, W) when every level is as likely: log K for each dimension."""
    num_dims = math.prod(x.shape[1:])
    nats = num_dims * math.log(num_levels)
    return Likelihood(nats * len(x), nats**2 * len(x), len(x), num_dims)


def histogram_baseline(train_x: Tensor, x: Tensor, *, num_levels: int) -> Likelihood:
    """Return the likelihood of images under one histogram for each dimension, all dimensions independent.

    Args:
        train_x: Images that are counted, (M, C, H, W); one is added to every count (Laplace).
        x: Images that are scored, (N, C, H, W).
        num_levels: K.

    Raises:
        ValueError: A level is K or more.
    """
    highest = max(int(levels.max()) for levels in (train_x, x) if levels.numel())
    if highest >= num_levels:
        raise ValueError(f"x must hold levels in [0, {num_levels - 1}], got {highest}")
    counted, scored = train_x.flatten(1).long(), x.flatten(1).long()
    num_dims = counted.shape[1]
    bins = counted + num_levels * torch.arange(num_dims)  # dimension d has bins d*K .. d*K + K-1
    counts = torch.bincount(bins.flatten(), minlength=num_levels * num_dims).double() + 1.0
    log_p = (counts / (len(counted) + num_levels)).log()
    nats = -log_p[scored + num_levels * torch.arange(num_dims)].sum(1)
    return Likelihood(float(nats.sum()), float(nats.square().sum()), len(x), num_dims)


def choose_device(name: str) -> torch.device:
    """Return the device of `auto`, `cpu` or `cuda`.

    Raises:
        RaypixelError: CUDA is asked for and not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise RaypixelError("device must be there, got 'cuda' on a machine without a CUDA device")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def evaluate_checkpoint(
    checkpoint: Checkpoint,
    split: ImageSource,
    manifest: Manifest,
    *,
    device: torch.device,
    batch_size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Likelihood:
    """Sum the likelihood of a split under a checkpoint; see `checkpoint_nats`."""
    nats = checkpoint_nats(
        checkpoint, split, manifest, device=device, batch_size=batch_size, progress=progress
    )
    return likelihood_of(nats, manifest.num_dims)


def checkpoint_nats(
    checkpoint: Checkpoint,
    split: ImageSource,
    manifest: Manifest,
    *,
    device: torch.device,
    batch_size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Return the nats of each image of a split under a checkpoint, (N,), in float32 whatever it was trained in.

    Args:
        checkpoint: What to evaluate.
        split: Images, as `raypixel.data.stream.open_split` returns them.
        manifest: Their prepared data set.
        device: Where to compute.
        batch_size: Images at a time; the training's `eval_batch_size` by default.
        progress: Told of increments.
    """
    config = parse_experiment(checkpoint.info.experiment, where=str(checkpoint.where))
    size = batch_size or config.training.eval_batch_size
    batches = EvalBatches(split, config.data, manifest, batch_size=size)
    model = checkpoint.load_model(device)
    parts = list(each_nats(model, batches, device=device, progress=progress))
    return torch.cat(parts).cpu() if parts else torch.zeros(0, dtype=torch.float64)


@dataclass(frozen=True)
class Evaluation:
    """A likelihood and all that a reader must know to compare it.

    Attributes:
        likelihood: Sums and counts.
        data_name: Name of the data set.
        levels: Levels, binarization and augmentation, for a person.
        split: Name of the split.
        checkpoint: What was evaluated; None for a mixture.
    """

    likelihood: Likelihood
    data_name: str
    levels: str
    split: str
    checkpoint: Location | None

    def to_mapping(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "data": self.data_name,
            "levels": self.levels,
            "split": self.split,
            "num_images": self.likelihood.num_images,
            "bits_per_dim": self.likelihood.bits_per_dim,
            "nll_nats": self.likelihood.nats_per_image,
            "standard_error_nats": self.likelihood.standard_error_nats,
            "checkpoint": "mixture" if self.checkpoint is None else str(self.checkpoint),
        }


def open_split(
    checkpoint: Checkpoint, split_name: str, *, root: Location | None
) -> tuple[Split, DataConfig, Manifest]:
    """Read a split of the data set that a checkpoint was trained on, at its levels.

    Args:
        checkpoint: What was trained.
        split_name: "train", "val" or "test".
        root: Folder of prepared data sets; None for the one used in training.

    Returns:
        The images (a stochastic binarization is not drawn yet), the data options and the manifest.

    Raises:
        DataError: The data set is not prepared.
        CheckpointError: Its images do not fit the model.
    """
    data, manifest = open_data(checkpoint, root=root)
    split = read_split(data.root, data.name, split_name)
    return fix_levels(split, data, manifest, split_name=split_name), data, manifest


def open_data(checkpoint: Checkpoint, *, root: Location | None) -> tuple[DataConfig, Manifest]:
    """Return the data options and the manifest of the data set that a checkpoint was trained on; see `open_split`."""
    config = parse_experiment(checkpoint.info.experiment, where=str(checkpoint.where))
    data = config.data if root is None else config.data.model_copy(update={"root": root})
    manifest = load_manifest(data.root, data.name)
    if manifest.image_shape != checkpoint.info.image_shape:
        raise CheckpointError(
            f"{checkpoint.where}: images of {data.name} must be {checkpoint.info.image_shape} "
            f"as in training, got {manifest.image_shape}"
        )
    return data, manifest


def evaluate_splits(
    checkpoints: Sequence[Checkpoint],
    split_name: str,
    *,
    root: Location | None,
    device_name: str,
    batch_size: int | None = None,
    progress: Callable[[int], Callable[[int], None]],
) -> tuple[Evaluation, ...]:
    """Score a split of the data set that checkpoints were trained on.

    Args:
        checkpoints: What to evaluate; all of one data set, read in the same way.
        split_name: "train", "val" or "test".
        root: Folder of prepared data sets; None for the one used in training of the first.
        device_name: "auto", "cpu" or "cuda".
        batch_size: Images at a time; that of the training by default.
        progress: Given the number of images to come, returns what is told of increments.

    Returns:
        One for each checkpoint and, of several, one for their equal mixture.

    Raises:
        DataError: The data set is not prepared.
        CheckpointError: Its images do not fit a model, or a model's data is not that of the first.
    """
    levels = [_same_data(checkpoints[0], checkpoint) for checkpoint in checkpoints]
    data, manifest = open_data(checkpoints[0], root=root)
    data = decide_residence(data, manifest)
    split = open_source(data, manifest, split_name)
    device, told = choose_device(device_name), progress(len(split) * len(checkpoints))
    nats = [
        checkpoint_nats(c, split, manifest, device=device, batch_size=batch_size, progress=told)
        for c in checkpoints
    ]
    places: list[Location | None] = [checkpoint.where for checkpoint in checkpoints]
    if len(nats) > 1:
        nats.append(mixture_nats(torch.stack(nats)))
        levels.append("; ".join(dict.fromkeys(levels)))
        places.append(None)
    return tuple(
        Evaluation(likelihood_of(each, manifest.num_dims), data.name, of, split_name, place)
        for each, of, place in zip(nats, levels, places, strict=True)
    )


def _same_data(first: Checkpoint, other: Checkpoint) -> str:
    """Check that a checkpoint's images are those of the first one, and describe them."""
    ours, theirs = (
        parse_experiment(c.info.experiment, where=str(c.where)).data for c in (first, other)
    )
    names = ("name", "binarization", "binarization_seed", "num_levels", "max_eval_images")
    problems = [
        f"{other.where}: data.{name} must be {getattr(ours, name)!r} as of {first.where}, "
        f"got {getattr(theirs, name)!r}"
        for name in names
        if getattr(ours, name) != getattr(theirs, name)
    ]
    if not problems and other.info.image_shape != first.info.image_shape:
        rule = f"images must be {first.info.image_shape} as of {first.where}"
        problems = [f"{other.where}: {rule}, got {other.info.image_shape}"]
    if problems:
        raise CheckpointError(problems)
    return describe_levels(theirs, other.info.num_levels)
