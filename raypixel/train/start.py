"""`raypixel train`: one experiment, in this process or as a data-parallel Ray Train job, published to MLflow."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from raypixel.checkpoint import Checkpoint
from raypixel.data import DataConfig, Manifest, describe_stream
from raypixel.data.batches import ImageSource
from raypixel.data.stream import open_split
from raypixel.errors import StorageError
from raypixel.evaluation import choose_device
from raypixel.experiment import ExperimentConfig, check_model
from raypixel.model import draw_picture
from raypixel.runs import Event, Run, writing
from raypixel.runs.tracking import Publisher
from raypixel.storage import Location
from raypixel.train import ray_cluster
from raypixel.train.data_parallel import SPLITS, train_on_ray
from raypixel.train.worker import Worker, run_worker


@dataclass(frozen=True)
class TrainingResult:
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


def train_and_publish(
    config: ExperimentConfig,
    manifest: Manifest,
    run: Run,
    *,
    resume: bool,
    on_event: Callable[[Event], None],
    warn: Callable[[str], None],
    address: str | None = None,
) -> TrainingResult:
    """Begin a run, train it, draw samples from its best checkpoint, and publish all of it to MLflow meanwhile.

    Args:
        config: The experiment.
        manifest: Its prepared data set.
        run: What to train into.
        resume: Continue what is there.
        on_event: Told of the progress.
        warn: Shows a line, for example when the MLflow server is lost; training goes on.
        address: A Ray cluster to join.

    Raises:
        RaypixelError: Anything a person can fix.
    """
    check_model(config, manifest)  # what cannot be built is told before anything starts
    with run.claim(), Publisher(warn=warn) as publisher:
        config = run.begin(config, manifest, resume=resume)
        if config.data.backend == "stream":
            warn(describe_stream(config.data, manifest))
        if resume and not run.has_checkpoint:
            warn(f"{run.home}: nothing to resume, training from the start")
        publisher.follow(run)
        with ending(run):
            train(config, manifest, run, on_event=on_event, address=address)
            best = run.best()
            problem = draw_picture(best, run.folder / "samples.png")
            run.put("samples.png")
    return TrainingResult(
        best, None if problem else run.home / "samples.png", problem, publisher.describe()
    )


@contextmanager
def ending(run: Run) -> Iterator[None]:
    """Write into the run how what is done meanwhile ended."""
    try:
        yield
    except BaseException as error:
        is_ours = isinstance(error, Exception)
        text = " ".join(str(error).split()) if is_ours else ""
        with suppress(StorageError, OSError):  # what went wrong first is what is told
            run.end(Event("end", text=text, status="failed" if is_ours else "killed"))
        raise
    run.end(Event("end", status="done"))


def train(
    config: ExperimentConfig,
    manifest: Manifest,
    run: Run,
    *,
    on_event: Callable[[Event], None],
    address: str | None = None,
) -> dict[str, float]:
    """Train an experiment into a run that has begun, from the newest checkpoint there if there is one.

    Args:
        config: The experiment, as `Run.begin` returned it; `scaling.num_workers` 0 trains in this process.
        manifest: Its prepared data set.
        run: checkpoints/best and checkpoints/last appear in its folder.
        on_event: Told of the progress, in this process.
        address: A Ray cluster to join.

    Returns:
        The metrics of the last epoch.

    Raises:
        RaypixelError: Anything a person can fix, also when it happened in a worker.
    """
    if config.scaling.num_workers == 0:
        worker = Worker(device=choose_device(config.scaling.device))
        splits = read_splits(config.data, manifest)
        with writing(run, on_event) as writer:
            return run_worker(config, manifest, splits, writer.folder, worker=worker, writer=writer)
    with ray_cluster.cluster(address):
        return train_on_ray(config, manifest, run, on_event)


def read_splits(config: DataConfig, manifest: Manifest) -> dict[str, ImageSource]:
    """Open train and val in this process; see `open_split`."""
    return {name: open_split(config, manifest, name) for name in SPLITS}
