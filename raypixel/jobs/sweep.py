"""`raypixel sweep`: a Ray Tune sweep around the same training function as `raypixel train`.

A trial runs its training inside the Tune actor, and actors are reused: a trial then costs about a second of overhead
instead of the dozen that a Ray Train job of its own takes to start.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from raypixel.data import DataConfig, Manifest, Split, num_levels_of
from raypixel.data.loader import EvalBatches
from raypixel.errors import ConfigError, RaypixelError
from raypixel.evaluation import histogram_baseline, uniform_baseline
from raypixel.experiment import build_experiment_model
from raypixel.jobs import datasets, record, session
from raypixel.jobs.folder import best_checkpoint, last_checkpoint, open_run
from raypixel.jobs.tracking import TrackedRun, Tracker
from raypixel.jobs.trials import Book, TrialResult, TrialWatch, tune_callback
from raypixel.jobs.worker import Message, Worker, evaluate_checkpoint, run_worker
from raypixel.sweeps import SweepConfig, Trial

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class SweepResult:
    """All trials, the best first, the failed last, and baselines on the same test images.

    Attributes:
        trials: Ranked by the sweep's metric.
        baselines: Test bits/dim by name.
        num_test_images: Images of the test split.
    """

    trials: list[TrialResult]
    baselines: Mapping[str, float]
    num_test_images: int


def run_sweep(
    sweep: SweepConfig,
    trials: list[Trial],
    manifest: Manifest,
    folder: Path,
    *,
    watch: TrialWatch,
    tracker: Tracker,
    parent: TrackedRun,
    address: str | None = None,
) -> SweepResult:
    """Run every trial and rank them.

    Args:
        sweep: The sweep.
        trials: Its trials, as `load_sweep` expands them.
        manifest: The prepared data set of all trials.
        folder: Where the trials' run folders go.
        watch: Told of every trial's progress.
        tracker: Gets a run for each trial.
        parent: The sweep's own run.
        address: A Ray cluster to join.

    Raises:
        RaypixelError: The cluster cannot hold a trial, or the sweep was stopped.
    """
    folder = folder.resolve()
    folders = {
        trial.label: folder / "trials" / f"{number:03d}-{_slug(trial.label)}"
        for number, trial in enumerate(trials, start=1)
    }

    def open_trial(trial: Trial) -> TrackedRun:
        where = folders[trial.label]
        run_id = open_run(trial.config, manifest, where, resume=True)
        return record.start_run(
            tracker,
            trial.config,
            manifest,
            name=trial.label,
            folder=where,
            run_id=run_id,
            parent=parent,
        )

    book = Book({trial.label: trial for trial in trials}, folders, watch, open_trial)
    with session.cluster(address):
        data = trials[0].config.data
        staged = datasets.stage(data, manifest, SPLITS)
        try:
            _tune(sweep, book, manifest, folder, staged)
        finally:
            book.close()
        splits = datasets.open_staged(staged, data, manifest)
        baselines = _baselines(splits, data, manifest)
    ranked = sorted(
        book.results.values(),
        key=lambda r: (r.error is not None, r.metrics.get(sweep.metric.name, 0.0)),
    )
    return SweepResult(ranked, baselines, len(splits["test"]))


def check_trials(trials: list[Trial], manifest: Manifest) -> None:
    """Build the model of every trial, so that what cannot be built is told before anything starts.

    Raises:
        ConfigError: One line for each trial that cannot be built.
    """
    problems: list[str] = []
    for trial in trials:
        try:
            build_experiment_model(trial.config, manifest)
        except RaypixelError as error:
            problems += [f"{problem} (trial {trial.label})" for problem in error.problems]
    if problems:
        raise ConfigError(problems)


def _tune(
    sweep: SweepConfig, book: Book, manifest: Manifest, folder: Path, staged: dict[str, Any]
) -> None:
    from ray import tune

    resources = {"CPU": sweep.raypixel.cpus_per_trial, "GPU": sweep.raypixel.gpus_per_trial}
    num_concurrent = session.num_fitting({k: float(v) for k, v in resources.items()})
    if not num_concurrent:
        raise RaypixelError(
            f"raypixel.cpus_per_trial and gpus_per_trial must fit a machine of the cluster, got "
            f"{resources['CPU']} and {resources['GPU']:g}: {session.describe_nodes()}"
        )
    trainable = tune.with_parameters(
        _run_trial,
        trials=book.trials,
        manifest=manifest,
        staged=staged,
        folders=book.folders,
        sweep_metric=sweep.metric.name,
    )
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        param_space={"label": tune.grid_search(list(book.trials))},
        tune_config=tune.TuneConfig(
            metric=sweep.metric.name,
            mode="min",
            reuse_actors=True,
            max_concurrent_trials=num_concurrent,
        ),
        run_config=tune.RunConfig(
            name="ray",
            storage_path=str(folder),
            verbose=0,
            callbacks=[tune_callback(book)],
            failure_config=tune.FailureConfig(max_failures=sweep.raypixel.max_retries),
        ),
    )
    tuner.fit()
    missing = book.trials.keys() - book.results.keys()
    if missing:
        raise RaypixelError(
            f"{sweep.name}: stopped before {len(missing)} of {len(book.trials)} trials ended"
        )


def _run_trial(
    parameters: dict[str, str],
    *,
    trials: dict[str, Trial],
    manifest: Manifest,
    staged: dict[str, Any],
    folders: dict[str, Path],
    sweep_metric: str,
) -> None:
    """Run in a Tune actor: train, then score the best checkpoint on the test split."""
    import ray
    from ray import tune

    trial, folder = trials[parameters["label"]], folders[parameters["label"]]
    config = trial.config
    resources = ray.get_runtime_context().get_assigned_resources()
    device = torch.device("cuda" if resources.get("GPU") else "cpu")
    torch.set_num_threads(max(1, int(resources.get("CPU", 1))))
    splits = datasets.open_staged(staged, config.data, manifest)

    def send(message: Message) -> None:
        if message.kind == "epoch":
            news = asdict(message)
            tune.report({sweep_metric: message.metrics[sweep_metric], "message": news})

    try:
        run_worker(config, manifest, splits, folder, worker=Worker(device=device), send=send)
        checkpoint = best_checkpoint(folder)
        test = evaluate_checkpoint(checkpoint, splits["test"], manifest, device=device)
    except RaypixelError as error:  # would only happen again: not left to Tune's retries
        tune.report({sweep_metric: math.nan, "problems": list(error.problems)})
        return
    model = checkpoint.load_model()
    best = float(checkpoint.state["best"])
    result = {
        "val/bits_per_dim": best,
        "val/nll_nats": best * test.num_dims * math.log(2),
        "test/bits_per_dim": test.bits_per_dim,
        "test/nll_nats": test.nats_per_image,
        "test/standard_error_nats": test.standard_error_nats,
        "num_parameters": float(sum(p.numel() for p in model.parameters())),
        "seconds": float(last_checkpoint(folder).state["seconds"]),
    }
    tune.report({sweep_metric: result[sweep_metric], "result": result})


def _baselines(
    splits: Mapping[str, Split], data: DataConfig, manifest: Manifest
) -> dict[str, float]:
    num_levels = num_levels_of(data, manifest)
    # as they are evaluated: a stochastic binarization is one draw
    train, test = (
        EvalBatches(splits[name], data, manifest, batch_size=1).images for name in ("train", "test")
    )
    uniform = uniform_baseline(test, num_levels=num_levels)
    histogram = histogram_baseline(train, test, num_levels=num_levels)
    return {
        f"uniform over {num_levels} levels": uniform.bits_per_dim,
        "histogram of each pixel": histogram.bits_per_dim,
    }


def _slug(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9._=-]+", "-", label)
