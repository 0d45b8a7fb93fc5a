"""`raypixel train`: one experiment, in this process or as a data-parallel Ray Train job, recorded in MLflow."""

from collections.abc import Callable
from dataclasses import dataclass

from raypixel.checkpoint import Checkpoint
from raypixel.data import (
    DataConfig,
    Manifest,
    Split,
    StreamedSplit,
    describe_stream,
    fix_levels,
    open_stream,
    read_split,
)
from raypixel.experiment import ExperimentConfig, build_experiment_model
from raypixel.jobs import record, session
from raypixel.jobs.backend import settle
from raypixel.jobs.folder import begin_run, best_checkpoint, claim
from raypixel.jobs.mirror import writing
from raypixel.jobs.ray_train import SPLITS, train_on_ray
from raypixel.jobs.remote_run import fetch_run, put_files
from raypixel.jobs.worker import Message, Worker, choose_device, run_worker
from raypixel.storage import Location, exists


@dataclass(frozen=True)
class Outcome:
    """What a finished training leaves.

    Attributes:
        best: The checkpoint with the lowest validation likelihood.
        samples: Picture of samples, or None.
        samples_problem: Why there is no picture.
        tracking: Where MLflow has the run and what opens it.
    """

    best: Checkpoint
    samples: Location | None
    samples_problem: str | None
    tracking: str


def train_recorded(
    config: ExperimentConfig,
    manifest: Manifest,
    place: Location,
    *,
    resume: bool,
    on_message: Callable[[Message], None],
    warn: Callable[[str], None],
    address: str | None = None,
) -> Outcome:
    """Train as `train` does, record the run in MLflow, and draw samples from the best checkpoint.

    Args:
        config: The experiment.
        manifest: Its prepared data set.
        place: The run's folder.
        resume: Continue what is in the folder.
        on_message: Told of the progress.
        warn: Shows a line, for example when the MLflow server is lost; training goes on.
        address: A Ray cluster to join.

    Raises:
        RaypixelError: Anything a person can fix.
    """
    build_experiment_model(config, manifest)  # what cannot be built is told before anything starts
    with claim(place), record.open_tracker(warn) as tracker:
        config = settle(config, manifest, place)
        if config.data.backend == "stream":
            warn(describe_stream(config.data, manifest))
        run_id = begin_run(config, manifest, place, resume=resume)
        if resume and not exists(place / "checkpoints"):
            warn(f"{place}: nothing to resume, training from the start")
        run = record.start_run(
            tracker, config, manifest, name=place.name, place=place, run_id=run_id
        )

        def watch(message: Message) -> None:
            record.record(run, message)
            on_message(message)

        with run:
            train(config, manifest, place, on_message=watch, address=address)
            best = best_checkpoint(place)
            folder = fetch_run(place)
            problem = record.draw_samples(best, folder / "samples.png")
            put_files(place, "samples.png")
            record.record_files(run, folder)
    picture = None if problem else place / "samples.png"
    return Outcome(best, picture, problem, tracker.describe())


def train(
    config: ExperimentConfig,
    manifest: Manifest,
    place: Location,
    *,
    on_message: Callable[[Message], None],
    address: str | None = None,
) -> dict[str, float]:
    """Train an experiment into a run's folder, from the newest checkpoint there if there is one.

    Args:
        config: The experiment; `scaling.num_workers` 0 trains in this process.
        manifest: Its prepared data set.
        place: The run's folder; checkpoints/best and checkpoints/last appear in it.
        on_message: Told of the progress, in this process.
        address: A Ray cluster to join.

    Returns:
        The metrics of the last epoch.

    Raises:
        RaypixelError: Anything a person can fix, also when it happened in a worker.
    """
    config = settle(config, manifest, place)
    if config.scaling.num_workers == 0:
        worker = Worker(device=choose_device(config.scaling.device))
        splits = read_splits(config.data, manifest)

        def warn(text: str) -> None:
            on_message(Message("warning", text=text))

        with writing(place, warn) as desk:
            return run_worker(
                config,
                manifest,
                splits,
                desk.folder,
                worker=worker,
                send=on_message,
                saved=desk.saved,
            )
    with session.cluster(address):
        return train_on_ray(config, manifest, place, on_message)


def read_splits(config: DataConfig, manifest: Manifest) -> dict[str, Split | StreamedSplit]:
    """Read train and val into this process, or plan their streaming, with the data options applied."""
    if config.backend == "stream":
        return {name: open_stream(config, manifest, name) for name in SPLITS}
    return {
        name: fix_levels(
            read_split(config.root, config.name, name), config, manifest, split_name=name
        )
        for name in SPLITS
    }
