"""What a run leaves in MLflow: parameters, metrics by step, the data set, pictures and the checkpoint."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from raypixel.checkpoint import Checkpoint
from raypixel.config import flatten
from raypixel.data import Manifest
from raypixel.experiment import ExperimentConfig
from raypixel.figures import image_grid, save_image
from raypixel.jobs.sample import draw, estimate_seconds
from raypixel.jobs.tracking import TrackedRun, Tracker
from raypixel.jobs.worker import Message, choose_device
from raypixel.sweeps import SweepConfig

NUM_SAMPLES = 16
LONGEST_SAMPLING_SECONDS = 60.0


def open_tracker(warn: Callable[[str], None]) -> Tracker:
    """Open the MLflow store of MLFLOW_TRACKING_URI, or the one in the working folder."""
    return Tracker(os.environ.get("MLFLOW_EXPERIMENT_NAME", "raypixel"), warn=warn)


def start_run(
    tracker: Tracker,
    config: ExperimentConfig,
    manifest: Manifest,
    *,
    name: str,
    folder: Path,
    parent: TrackedRun | None = None,
    tags: Mapping[str, str] | None = None,
) -> TrackedRun:
    """Open the run of a training, or the one that this folder had before it was resumed."""
    run = tracker.start(
        name,
        params=flatten(config.to_mapping()),
        tags={"raypixel.folder": str(folder.resolve()), **(tags or {})},
        parent=parent,
        key=f"{folder.resolve()}:{config.digest}",
    )
    for split_name in ("train", "val"):
        run.log_dataset(
            f"{manifest.name}-{split_name}",
            manifest.digest,
            source=str(manifest.origin.source),
            num_images=manifest.splits[split_name].num_images,
            context={"train": "training", "val": "validation"}[split_name],
        )
    return run


def start_sweep(tracker: Tracker, sweep: SweepConfig, folder: Path) -> TrackedRun:
    """Open the run of a sweep, the parent of its trials' runs."""
    return tracker.start(
        folder.name,
        params=flatten(sweep.model_dump(mode="json", exclude_none=True)),
        tags={"raypixel.kind": "sweep", "raypixel.folder": str(folder.resolve())},
        key=str(folder.resolve()),
    )


def record(run: TrackedRun, message: Message) -> None:
    """Write a message's numbers."""
    if message.metrics:
        run.log({**message.metrics, "epoch": message.epoch}, step=message.step)


def record_files(run: TrackedRun, folder: Path) -> None:
    """Store the best checkpoint, the experiment, the metrics and the samples of a run's folder."""
    best = folder / "checkpoints" / "best"
    if best.exists():
        run.log_artifact(best.resolve(), "checkpoint")
    for name in ("experiment.yaml", "metrics.jsonl", "samples.png"):
        if (folder / name).exists():
            run.log_artifact(folder / name)


def draw_samples(checkpoint: Checkpoint, path: Path, *, device_name: str) -> str | None:
    """Draw a picture of samples if that is quick.

    Returns:
        None, or a line that says why there is no picture.
    """
    model = checkpoint.load_model(choose_device(device_name))
    seconds = estimate_seconds(model, NUM_SAMPLES)
    if seconds > LONGEST_SAMPLING_SECONDS:
        return f"no {path.name}: {NUM_SAMPLES} samples would take about {seconds / 60:.0f} minutes"
    x = draw(model, NUM_SAMPLES, seed=0)
    save_image(image_grid(x, num_levels=checkpoint.info.num_levels), path)
    return None
