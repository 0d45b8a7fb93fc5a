"""Data-parallel training on Ray Train: the worker's program on every worker, which write and read one run."""

import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from raypixel.data import Manifest
from raypixel.errors import RaypixelError, StorageError, TrainingError
from raypixel.experiment import ExperimentConfig, ScalingConfig
from raypixel.runs import Event, Run, RunWriter, reading, writing
from raypixel.storage import access, ray_storage, remove
from raypixel.train import ray_cluster, staging
from raypixel.train.preemption import end_of_worker, notice_of, watch_preemption
from raypixel.train.worker import Worker, run_worker

SPLITS = ("train", "val")
START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
START_ATTEMPTS = 10
"""How often the start of the workers may time out (`ray_cluster` sets three minutes): another machine may have to come up."""
ELASTIC_START_S = 10
"""The same timeout where the number of workers may vary. Ray Train starts as many as it has counted machines for, so there is
nothing to wait for but its own mistake: a machine that died is counted for up to 40 s."""
ELASTIC_START_ATTEMPTS = 180


def train_on_ray(
    config: ExperimentConfig,
    manifest: Manifest,
    run: Run,
    on_event: Callable[[Event], None],
    staged: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Train on the workers of the cluster that this process is connected to; see `raypixel.train.start.train`.

    `staged` are the splits in the object store, read now if they are not given. A trial of a sweep must give them: after a
    trial that was stopped, Ray keeps the dead training's share of the cluster for some minutes, and reading waits for it.

    Ray's own files go to a fresh folder each time and are removed: what resuming needs is in our checkpoints, and a
    snapshot of Ray's that a kill cut short is never read.
    """
    import ray.train
    from ray.train.torch import TorchTrainer

    resources, use_gpu = ray_cluster.worker_resources(config.scaling)
    if staged is None:
        staged = staging.stage(config.data, manifest, SPLITS)
    remove(run.ray)
    name = uuid.uuid4().hex
    num_starts = ELASTIC_START_ATTEMPTS if _is_elastic(config.scaling) else START_ATTEMPTS
    trainer = TorchTrainer(
        _worker_loop,
        train_loop_config={
            "name": name,
            "config": config,
            "manifest": manifest,
            "staged": staged,
            "home": run.home,
            "access": access(),
            "num_threads": None if use_gpu else int(resources["CPU"]),
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.scaling.num_workers,
            use_gpu=use_gpu,
            resources_per_worker=resources,
            elastic_resize_monitor_interval_s=config.scaling.resize_seconds,
        ),
        run_config=ray.train.RunConfig(
            name=name,
            **ray_storage(run.ray),
            failure_config=ray.train.FailureConfig(
                max_failures=config.scaling.max_failures,
                controller_failure_limit=num_starts,
            ),
            callbacks=[end_of_worker(name)],
            logging_config=ray.LoggingConfig(log_level="ERROR"),
        ),
    )
    interrupt_handler = signal.getsignal(signal.SIGINT)
    try:
        with run.watched(on_event), _start_timeout(config.scaling):
            result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        known = raypixel_error(error)
        if known is None:
            raise  # a bug, or a machine that is gone: the layers of the error tell which
        raise known from error
    except SystemExit:  # Ray Train takes Ctrl-C and leaves with success
        result = None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, interrupt_handler)
        with suppress(StorageError):  # left there: the next training of the run removes it
            remove(run.ray)
    if result is None:
        # raised here, where the frames of `fit` and the actors they hold are gone: Ray ends a process at once in
        # which an actor outlives the connection to the cluster
        raise KeyboardInterrupt
    outcome: dict[str, Any] = result.return_value
    if "problems" in outcome:
        raise TrainingError(outcome["problems"])
    return dict(outcome["metrics"])


def _is_elastic(scaling: ScalingConfig) -> bool:
    return not isinstance(scaling.num_workers, int)


@contextmanager
def _start_timeout(scaling: ScalingConfig) -> Iterator[None]:
    """Set Ray Train's timeout for the start of elastic workers, whatever is set for others."""
    if not _is_elastic(scaling):
        yield
        return
    before = os.environ.get(START_TIMEOUT)
    os.environ[START_TIMEOUT] = str(ELASTIC_START_S)
    try:
        yield
    finally:
        if before is None:
            del os.environ[START_TIMEOUT]
        else:
            os.environ[START_TIMEOUT] = before


def _worker_loop(arguments: dict[str, Any]) -> dict[str, Any]:
    """Run on every Ray Train worker.

    A loss that is not finite is seen by all workers at once: it is returned, so that it is not tried again. Any other
    error is of one worker, whose others wait for it: it is raised, so that Ray ends them.
    """
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    if arguments["num_threads"] is not None:
        torch.set_num_threads(arguments["num_threads"])
    config = arguments["config"]
    device = ray.train.torch.get_device()
    if device.type == "cuda":  # else each worker's first allocation also takes memory of GPU 0
        torch.cuda.set_device(device)
    worker = Worker(context.get_world_rank(), context.get_world_size(), device)
    arguments["access"].use()
    run = Run.at(arguments["home"])
    splits = staging.open_staged(arguments["staged"], config.data, arguments["manifest"])
    notice = notice_of(arguments["name"])
    if ray_cluster.has_preemption_watcher():
        watch_preemption(notice)
    try:
        with _opened(run, worker) as (folder, writer):
            metrics = run_worker(
                config,
                arguments["manifest"],
                splits,
                folder,
                worker=worker,
                writer=writer,
                notice=notice,
            )
    except TrainingError as error:
        return {"problems": error.problems}
    finally:
        notice.note_over()
    return {"metrics": metrics}


@contextmanager
def _opened(run: Run, worker: Worker) -> Iterator[tuple[Path, RunWriter | None]]:
    """Open the run: rank 0 writes, and all begin with the checkpoint that rank 0 has."""
    if worker.rank == 0:
        with writing(run) as writer:
            _meet(worker)
            yield writer.folder, writer
    else:
        _meet(worker)
        with reading(run) as folder:
            yield folder, None


def _meet(worker: Worker) -> None:
    if worker.world_size > 1:
        torch.distributed.barrier()


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error of Ray's and all that it was caused by, through Ray's layers and the workers' failures."""
    yield error
    failures = getattr(error, "worker_failures", None) or {}
    inner = getattr(error, "cause", None) or error.__cause__
    for cause in [*failures.values(), inner]:
        if isinstance(cause, BaseException):
            yield from causes(cause)


def raypixel_error(error: BaseException) -> RaypixelError | None:
    """Return the problem that a person can fix behind an error of Ray's, if there is one."""
    return next((cause for cause in causes(error) if isinstance(cause, RaypixelError)), None)


def root_cause(error: BaseException) -> str:
    """Return one line for what went wrong in a Ray worker, without the layers around it."""
    innermost = list(causes(error))[-1]
    return f"{type(innermost).__name__}: {' '.join(str(innermost).split())}"
