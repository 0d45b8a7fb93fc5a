"""`raypixel train`: one experiment, in this process or as a data-parallel Ray Train job, published to MLflow."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from raypixel.checkpoint import Checkpoint, CheckpointStore
from raypixel.data import DataConfig, Manifest, describe_stream
from raypixel.data.batches import ImageSource
from raypixel.data.stream import open_split
from raypixel.errors import CheckpointError, StorageError
from raypixel.evaluation import choose_device
from raypixel.experiment import ExperimentConfig, build_experiment_model, check_model
from raypixel.model import draw_picture
from raypixel.runs import Event, Run, writing
from raypixel.runs.tracking import Publisher
from raypixel.storage import Location
from raypixel.train import ray_cluster
from raypixel.train.data_parallel import SPLITS, train_on_ray
from raypixel.train.worker import Worker, run_worker
from raypixel.training import beginning


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
    init: Checkpoint | None = None,
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
        init: Begin with these weights (the averaged ones, where there is an EMA) and a new optimizer; not looked at where a
            training is continued.

    Raises:
        RaypixelError: Anything a person can fix.
    """
    check_model(config, manifest)  # what cannot be built is told before anything starts
    if init is not None:
        check_fits(init, config, manifest)
    with run.claim(), Publisher(warn=warn) as publisher:
        told = None if init is None else str(init.where)
        config = run.begin(config, manifest, resume=resume, init=told)
        if config.data.backend == "stream":
            warn(describe_stream(config.data, manifest))
        if resume and not run.has_checkpoint:
            warn(f"{run.home}: nothing to resume, training from the start")
        if init is not None and not run.has_checkpoint:
            warn(f"begins with the weights of {init.where}")
            _begin_with(init, config, run)
        publisher.follow(run)
        with ending(run):
            train(config, manifest, run, on_event=on_event, address=address)
            best = run.best()
            problem = draw_picture(best, run.folder / "samples.png")
            run.put("samples.png")
    return TrainingResult(
        best, None if problem else run.home / "samples.png", problem, publisher.describe()
    )


def check_fits(init: Checkpoint, config: ExperimentConfig, manifest: Manifest) -> None:
    """Check that a training can begin with a checkpoint's weights.

    Args:
        init: The checkpoint.
        config: The experiment.
        manifest: Its prepared data set.

    Raises:
        CheckpointError: Its images, levels or layers are others; names the options to set.
    """
    model = build_experiment_model(config, manifest)
    there, weights, wanted = init.info, init.weights(), model.state_dict()
    rules = []
    if model.image_shape != there.image_shape:
        rules.append(f"images must be {there.image_shape} as there, got {model.image_shape}")
    if model.num_levels != there.num_levels:
        rules.append(f"num_levels must be {there.num_levels} as there, got {model.num_levels}")
    unlike = {
        name
        for name in wanted.keys() | weights.keys()
        if name not in wanted or name not in weights or wanted[name].shape != weights[name].shape
    }
    if unlike and not rules:
        rules = _unlike_options(config.to_mapping()["model"], there.experiment["model"])
        rules = rules or [f"weights must be those of the model, {min(unlike)} is not"]
    if rules:
        raise CheckpointError([f"--init {init.where}: {rule}" for rule in rules])


def _unlike_options(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Return a line for each option of a model that is another there; for another kind that alone."""
    keys = sorted(ours.keys() | theirs.keys())
    if ours["kind"] != theirs["kind"]:
        keys = ["kind"]
    return [
        f"model.{key} must be {theirs.get(key)!r} as there, got {ours.get(key)!r}"
        for key in keys
        if key in theirs and ours.get(key) != theirs[key] and key != "dropout"
    ]


def _begin_with(init: Checkpoint, config: ExperimentConfig, run: Run) -> None:
    """Leave a checkpoint of step 0 in a run, which its workers then continue as any other."""
    info = replace(init.info, experiment=config.to_mapping())
    with writing(run) as writer:
        store = CheckpointStore(writer.folder / "checkpoints")
        store.save(beginning(init.weights(), config.training), info, step=0, is_best=False)
        writer.saved()


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
