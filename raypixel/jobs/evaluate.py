"""`raypixel evaluate`: exact likelihood of a split under a checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raypixel.checkpoint import Checkpoint, read_checkpoint
from raypixel.data import (
    DataConfig,
    Manifest,
    Split,
    StreamedSplit,
    choose_backend,
    fix_levels,
    load_manifest,
    open_stream,
    read_split,
)
from raypixel.errors import CheckpointError
from raypixel.experiment import parse_experiment
from raypixel.jobs.folder import best_checkpoint, remote_checkpoint
from raypixel.jobs.worker import choose_device, evaluate_checkpoint
from raypixel.storage import Location, Remote, location
from raypixel.units import Likelihood


@dataclass(frozen=True)
class Evaluation:
    """A likelihood and all that a reader must know to compare it.

    Attributes:
        likelihood: Sums and counts.
        data_name: Name of the data set.
        levels: Levels and binarization, for a person.
        split: Name of the split.
        checkpoint: What was evaluated.
    """

    likelihood: Likelihood
    data_name: str
    levels: str
    split: str
    checkpoint: Location

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
            "checkpoint": str(self.checkpoint),
        }


def resolve_checkpoint(place: str | Location) -> Checkpoint:
    """Read a checkpoint's folder, or the best checkpoint of a run's folder; what is in storage is fetched.

    Raises:
        CheckpointError: There is none, or it is damaged.
        StorageError: Storage does not answer or refuses.
    """
    path = location(place)
    if isinstance(path, Remote):
        return remote_checkpoint(path)
    if (path / "experiment.yaml").exists():
        return best_checkpoint(path)
    return read_checkpoint(path)


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
    return _read(data, manifest, split_name), data, manifest


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


def _read(data: DataConfig, manifest: Manifest, split_name: str) -> Split:
    split = read_split(data.root, data.name, split_name)
    return fix_levels(split, data, manifest, split_name=split_name)


def evaluate(
    checkpoint: Checkpoint,
    split_name: str,
    *,
    root: Location | None,
    device_name: str,
    batch_size: int | None = None,
    progress: Callable[[int], Callable[[int], None]],
) -> Evaluation:
    """Score a split of the data set that a checkpoint was trained on.

    Args:
        checkpoint: What to evaluate.
        split_name: "train", "val" or "test".
        root: Folder of prepared data sets; None for the one used in training.
        device_name: "auto", "cpu" or "cuda".
        batch_size: Images at a time; the training's `eval_batch_size` by default.
        progress: Given the number of images, returns what is told of increments.

    Raises:
        DataError: The data set is not prepared.
        CheckpointError: Its images do not fit the model.
    """
    data, manifest = open_data(checkpoint, root=root)
    data = choose_backend(data, manifest)
    open_fn: Callable[..., Split | StreamedSplit]
    open_fn = open_stream if data.backend == "stream" else _read
    split = open_fn(data, manifest, split_name)
    likelihood = evaluate_checkpoint(
        checkpoint,
        split,
        manifest,
        device=choose_device(device_name),
        batch_size=batch_size,
        progress=progress(len(split)),
    )
    levels = f"{checkpoint.info.num_levels} levels"
    if data.binarization != "none":
        levels += f", {data.binarization} binarization"
    return Evaluation(likelihood, data.name, levels, split_name, checkpoint.where)
