"""What a run leaves in MLflow: parameters, metrics by step, the data set, pictures and the checkpoint."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from raypixel.checkpoint import Checkpoint
from raypixel.data import Manifest
from raypixel.errors import RaypixelError
from raypixel.experiment import ExperimentConfig
from raypixel.figures import image_grid, save_image
from raypixel.jobs.sample import draw, estimate_seconds
from raypixel.jobs.tracking import TrackedRun, Tracker
from raypixel.jobs.worker import Message, choose_device
from raypixel.storage import Location, absolute
from raypixel.sweeps import SweepConfig

NUM_SAMPLES = 16
LONGEST_SAMPLING_SECONDS = 60.0


def open_tracker(warn: Callable[[str], None]) -> Tracker:
    """Open the MLflow store of MLFLOW_TRACKING_URI, or the one in the working folder."""
    return Tracker(os.environ.get("MLFLOW_EXPERIMENT_NAME", "raypixel"), warn=warn)


@contextmanager
def opening_tracker(warn: Callable[[str], None]) -> Iterator[Callable[[], Tracker]]:
    """Open it in a thread, for who has something to do meanwhile: the import of MLflow alone takes seconds."""
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(open_tracker, warn)
        try:
            yield opening.result
        finally:
            if opening.exception() is None:
                opening.result().close()


def start_run(
    tracker: Tracker,
    config: ExperimentConfig,
    manifest: Manifest,
    *,
    name: str,
    place: Location,
    run_id: str,
    parent: TrackedRun | None = None,
) -> TrackedRun:
    """Open the run of a training, or the one that it had before it was resumed (`run_id` of its folder)."""
    run = tracker.start(
        name,
        params=config.to_mapping(),
        tags={"raypixel.folder": str(absolute(place))},
        parent=parent,
        key=run_id,
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
        params=sweep.model_dump(mode="json", exclude_none=True),
        tags={"raypixel.kind": "sweep", "raypixel.folder": str(folder.resolve())},
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


def draw_samples(checkpoint: Checkpoint, path: Path) -> str | None:
    """Draw a picture of samples if that is quick.

    Returns:
        None, or a line that says why there is no picture: a finished training does not fail for want of one.
    """
    model = checkpoint.load_model(choose_device("auto"))
    seconds = estimate_seconds(model, NUM_SAMPLES)
    if seconds > LONGEST_SAMPLING_SECONDS:
        return f"no {path.name}: {NUM_SAMPLES} samples would take about {seconds / 60:.0f} minutes"
    x = draw(model, NUM_SAMPLES, seed=0)
    try:
        save_image(image_grid(x, num_levels=checkpoint.info.num_levels), path)
    except RaypixelError as error:
        return str(error)
    return None
