"""What a Tune actor does for one trial: train, score the best checkpoint on the test split, time its sampling.

A trial of one worker trains inside the actor, which is used again for the next; a trial of several launches Ray
Train. Its events go to the trial's run, which the driver follows: Tune itself hears only what its schedulers need.
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from raypixel.checkpoint import Checkpoint, CheckpointStore, Snapshot, read_checkpoint
from raypixel.data import Manifest
from raypixel.errors import CheckpointError, RaypixelError, StorageError
from raypixel.evaluation import evaluate_checkpoint
from raypixel.experiment import ExperimentConfig, override, parse_experiment
from raypixel.model import draw
from raypixel.runs import Event, Run, RunWriter, writing
from raypixel.storage import Access
from raypixel.train import staging
from raypixel.train.data_parallel import train_on_ray
from raypixel.train.worker import Worker, run_worker

SECONDS_TO_CLAIM = 60.0


def order_of(
    trial_id: str, config: dict[str, Any], planned: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return what a trial is to do.

    Population based training lays the configuration of one trial over that of another, its name and folder included:
    there Tune's number of the trial tells which it is.
    """
    if not planned:
        return dict(config["order"])
    own = planned[int(trial_id.rpartition("_")[2])]
    return {**own, "parameters": config["order"]["parameters"]}


def run_trial(
    config: dict[str, Any],
    *,
    manifest: Manifest,
    staged: dict[str, Any],
    planned: list[dict[str, Any]],
    access: Access,
) -> None:
    """Run one trial in a Tune actor.

    Args:
        config: Under `order`: `label`, `folder`, `experiment`, `parameters` to lay over it, `metric`, `num_samples`,
            and whether its checkpoints may be copied.
        manifest: The prepared data set.
        staged: Its splits in the object store.
        planned: The orders of all trials under population based training, else empty.
        access: The driver's settings of storage.
    """
    from ray import tune

    order = order_of(tune.get_context().get_trial_id(), config, planned)
    access.use()
    run = Run.at(order["folder"])
    mapping = override(json.loads(order["experiment"]), order["parameters"])
    experiment = parse_experiment(mapping, where=order["folder"])
    problems: list[str] = []
    reporter = _Reporter(order["metric"], is_copied=order["is_copied"])
    with _claimed(run):
        try:
            result = _run(experiment, manifest, run, staged, reporter, order["num_samples"])
        except StorageError:  # may be over by the time of Tune's retry
            raise
        except RaypixelError as error:  # would only happen again: not left to Tune's retries
            problems += error.problems
    if problems:
        tune.report({"problems": problems})
        return
    # no epoch: population based training would restart a trial that is over
    last = {} if reporter.is_copied else reporter.last
    tune.report({**last, "result": result})


def _run(
    config: ExperimentConfig,
    manifest: Manifest,
    run: Run,
    staged: dict[str, Any],
    reporter: "_Reporter",
    num_samples: int,
) -> dict[str, float]:
    import ray

    resources = ray.get_runtime_context().get_assigned_resources()
    device = torch.device("cuda" if resources.get("GPU") else "cpu")
    torch.set_num_threads(max(1, int(resources.get("CPU", 1))))
    splits = staging.open_staged(staged, config.data, manifest)
    if config.scaling.num_workers == 1:
        worker = Worker(device=device)
        with writing(run, reporter) as writer:
            _adopt(writer)
            reporter.folder_fn = lambda: writer.folder
            run_worker(config, manifest, splits, writer.folder, worker=worker, writer=writer)
        trained = Run(writer.folder, writer.folder)
    else:
        with writing(run) as writer:
            _adopt(writer)
        reporter.folder_fn = lambda: run.fetch().folder
        train_on_ray(config, manifest, run, reporter, staged)
        trained = run.fetch()
    checkpoint = trained.best()
    test = evaluate_checkpoint(checkpoint, splits["test"], manifest, device=device)
    best = float(checkpoint.state["best"])
    result = {
        "val/bits_per_dim": best,
        "val/nll_nats": best * test.num_dims * math.log(2),
        "test/bits_per_dim": test.bits_per_dim,
        "test/nll_nats": test.nats_per_image,
        "test/standard_error_nats": test.standard_error_nats,
        "test/num_images": float(test.num_images),
        "seconds": float(trained.last().state["seconds"]),
    }
    if num_samples:
        result |= {
            "sampling/num_images": float(num_samples),
            "sampling/seconds": _sampling_seconds(checkpoint, num_samples, device),
        }
    return result


class _Reporter:
    """Tell Tune of each epoch but the last.

    The last comes with the test likelihood: a scheduler that ends a trial there would leave it without one.
    """

    def __init__(self, metric: str, *, is_copied: bool) -> None:
        self.folder_fn: Callable[[], Path] | None = None
        self.metric = metric
        self.is_copied = is_copied
        self.last: dict[str, Any] = {}

    def __call__(self, event: Event) -> None:
        from ray import tune

        if event.kind != "epoch":
            return
        self.last = {self.metric: event.metrics[self.metric], "epoch": event.epoch}
        if event.step >= event.total_steps:
            return
        if not self.is_copied or self.folder_fn is None:
            tune.report(self.last)
            return
        newest = CheckpointStore(self.folder_fn() / "checkpoints").last.resolve()
        tune.report(self.last, checkpoint=tune.Checkpoint.from_directory(newest))


def _adopt(writer: RunWriter) -> None:
    """Continue from the checkpoint that Tune hands over, if population based training copied one from another trial."""
    from ray import tune

    given = tune.get_checkpoint()
    if given is None:
        return
    with given.as_directory() as directory:
        checkpoint = read_checkpoint(Path(directory))
        # the best of the trial that it comes from is not among our checkpoints
        state = {**checkpoint.state, "best": None, "best_step": None}
        snapshot = Snapshot(checkpoint.weights(), checkpoint.training_tensors(), state)
        shutil.rmtree(writer.folder / "checkpoints", ignore_errors=True)
        store = CheckpointStore(writer.folder / "checkpoints")
        store.save(snapshot, checkpoint.info, step=int(state["step"]), is_best=True)
    writer.saved()


def _sampling_seconds(checkpoint: Checkpoint, num_samples: int, device: torch.device) -> float:
    model = checkpoint.load_model(device)
    draw(model, 1, seed=0)  # compiles
    started = time.perf_counter()
    draw(model, num_samples, seed=0)
    return time.perf_counter() - started


@contextmanager
def _claimed(run: Run) -> Iterator[None]:
    """Hold the folder; the actor of a killed sweep may still hold it for some seconds."""
    deadline = time.monotonic() + SECONDS_TO_CLAIM
    while True:
        try:
            holder = run.claim()
            holder.__enter__()
            break
        except CheckpointError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
    try:
        yield
    finally:
        holder.__exit__(None, None, None)
