"""`raypixel train`: one experiment, in this process or as a data-parallel Ray Train job, recorded in MLflow."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from raypixel.checkpoint import Checkpoint
from raypixel.data import DataConfig, Manifest, fix_levels, read_split
from raypixel.errors import RaypixelError
from raypixel.experiment import ExperimentConfig
from raypixel.jobs import datasets, record, session
from raypixel.jobs.worker import (
    Message,
    Worker,
    best_checkpoint,
    choose_device,
    open_run,
    run_worker,
)

SPLITS = ("train", "val")


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
    samples: Path | None
    samples_problem: str | None
    tracking: str


def train_recorded(
    config: ExperimentConfig,
    manifest: Manifest,
    folder: Path,
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
        folder: The run's folder.
        resume: Continue what is in the folder.
        on_message: Told of the progress.
        warn: Shows a line, for example when the MLflow server is lost; training goes on.
        address: A Ray cluster to join.

    Raises:
        RaypixelError: Anything a person can fix.
    """
    open_run(config, folder, resume=resume)
    with record.open_tracker(warn) as tracker:
        run = record.start_run(tracker, config, manifest, name=folder.name, folder=folder)

        def watch(message: Message) -> None:
            record.record(run, message)
            on_message(message)

        with run:
            train(config, manifest, folder, on_message=watch, address=address)
            best = best_checkpoint(folder)
            picture = folder / "samples.png"
            problem = record.draw_samples(best, picture, device_name=config.scaling.device)
            record.record_files(run, folder)
    return Outcome(best, None if problem else picture, problem, tracker.describe())


def train(
    config: ExperimentConfig,
    manifest: Manifest,
    folder: Path,
    *,
    on_message: Callable[[Message], None],
    address: str | None = None,
) -> dict[str, float]:
    """Train an experiment into a run's folder, from the newest checkpoint there if there is one.

    Args:
        config: The experiment; `scaling.num_workers` 0 trains in this process.
        manifest: Its prepared data set.
        folder: The run's folder; checkpoints/best and checkpoints/last appear in it.
        on_message: Told of the progress, in this process.
        address: A Ray cluster to join.

    Returns:
        The metrics of the last epoch.

    Raises:
        RaypixelError: Anything a person can fix, also when it happened in a worker.
    """
    if config.scaling.num_workers == 0:
        device = choose_device(config.scaling.device)
        splits = read_splits(config.data, manifest)
        worker = Worker(device=device)
        return run_worker(config, manifest, splits, folder, worker=worker, send=on_message)
    with session.cluster(address):
        return _train_on_ray(config, manifest, folder, on_message)


def read_splits(config: DataConfig, manifest: Manifest, names: tuple[str, ...] = SPLITS) -> Any:
    """Read splits into this process, with the data options that are the same in every epoch applied."""
    return {
        name: fix_levels(
            read_split(config.root, config.name, name), config, manifest, split_name=name
        )
        for name in names
    }


def _train_on_ray(
    config: ExperimentConfig,
    manifest: Manifest,
    folder: Path,
    on_message: Callable[[Message], None],
) -> dict[str, float]:
    import ray.train
    from ray.train.torch import TorchTrainer
    from ray.util.queue import Queue

    resources, use_gpu = session.worker_resources(config.scaling)
    staged = datasets.stage(config.data, manifest, SPLITS)
    queue = Queue(actor_options={"num_cpus": 0})
    trainer = TorchTrainer(
        _worker_loop,
        train_loop_config={
            "config": config,
            "manifest": manifest,
            "staged": staged,
            "folder": folder.resolve(),
            "queue": queue,
            "num_threads": None if use_gpu else int(resources["CPU"]),
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.scaling.num_workers,
            use_gpu=use_gpu,
            resources_per_worker=resources,
        ),
        run_config=ray.train.RunConfig(
            name="ray",
            storage_path=str(folder.resolve()),
            failure_config=ray.train.FailureConfig(
                max_failures=config.scaling.max_failures, controller_failure_limit=3
            ),
            logging_config=ray.LoggingConfig(log_level="ERROR"),
        ),
    )
    relay = _Relay(queue, on_message)
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise RaypixelError(f"training failed: {root_cause(error)}") from error
    finally:
        relay.stop()
        queue.shutdown(force=True)
    outcome: dict[str, Any] = result.return_value
    if "problems" in outcome:
        raise RaypixelError(outcome["problems"])
    return dict(outcome["metrics"])


def _worker_loop(arguments: dict[str, Any]) -> dict[str, Any]:
    """Run on every Ray Train worker; a problem that a person can fix is returned, so that it is not retried."""
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    if arguments["num_threads"] is not None:
        torch.set_num_threads(arguments["num_threads"])
    config, queue = arguments["config"], arguments["queue"]
    worker = Worker(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device=ray.train.torch.get_device(),
    )
    splits = datasets.open_staged(arguments["staged"], config.data, arguments["manifest"])
    try:
        metrics = run_worker(
            config,
            arguments["manifest"],
            splits,
            arguments["folder"],
            worker=worker,
            send=lambda message: queue.actor.put_nowait.remote(message),
        )
    except RaypixelError as error:
        return {"problems": error.problems}
    return {"metrics": metrics}


def root_cause(error: BaseException) -> str:
    """Return one line for what went wrong in a Ray worker, without the layers around it."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        return "; ".join(
            f"worker {rank}: {root_cause(cause)}" for rank, cause in sorted(failures.items())
        )
    while True:
        inner = getattr(error, "cause", None) or error.__cause__
        if not isinstance(inner, BaseException):
            return f"{type(error).__name__}: {' '.join(str(error).split())}"
        error = inner


class _Relay:
    """Pass messages from the workers' queue to a callback, on a thread of the driver."""

    def __init__(self, queue: Any, on_message: Callable[[Message], None]) -> None:
        self.queue = queue
        self.on_message = on_message
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Pass on what is left and end."""
        self.is_over.set()
        self.thread.join(timeout=10)

    def _run(self) -> None:
        from ray.exceptions import RayError

        while True:
            was_over = self.is_over.wait(0.3)
            try:
                for message in self.queue.get_nowait_batch(self.queue.qsize()):
                    self.on_message(message)
            except RayError:
                return  # the cluster is gone; whoever runs the training reports that
            if was_over:
                return
