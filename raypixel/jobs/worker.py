"""What one training process does, however it was started: in this process, under Ray Train, or as a Tune trial.

Rank 0 writes the run's folder (`raypixel.jobs.folder`). Messages carry plain numbers to whoever watches: a progress bar,
MLflow, Tune.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from raypixel.checkpoint import Checkpoint, CheckpointStore, ModelInfo
from raypixel.data import (
    DataConfig,
    Manifest,
    Split,
    StreamedSplit,
    catalog,
    load_manifest,
    open_eval_batches,
    open_train_batches,
    prepare,
)
from raypixel.errors import DataError, RaypixelError
from raypixel.evaluation import evaluate
from raypixel.experiment import ExperimentConfig, build_experiment_model, parse_experiment
from raypixel.jobs.folder import MetricsFile
from raypixel.jobs.notice import Notice
from raypixel.models import PixelModel
from raypixel.storage import exists
from raypixel.training import Report, train
from raypixel.units import Likelihood

SECONDS_BETWEEN_STEP_MESSAGES = 0.5


@dataclass(frozen=True)
class Message:
    """News of a training, small and picklable.

    Attributes:
        kind: "step" at most twice a second, "epoch" after each validation, "warning" with a text.
        step: Complete steps.
        total_steps: Steps of the whole training.
        epoch: Complete epochs.
        seconds: Training time so far.
        metrics: Numbers by name.
        text: Of a warning.
    """

    kind: Literal["step", "epoch", "warning"]
    step: int = 0
    total_steps: int = 0
    epoch: int = 0
    seconds: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    text: str = ""


@dataclass(frozen=True)
class Worker:
    """Where a process stands among those of its training."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


def ensure_prepared(config: DataConfig, *, progress: Callable[[int, int], None] | None) -> Manifest:
    """Return the manifest of the data set, preparing it first where it is embedded or can be downloaded.

    Raises:
        DataError: It is not prepared and cannot be; the text names the command that does it.
    """
    try:
        return load_manifest(config.root, config.name)
    except DataError:
        reachable = {entry.name for entry in catalog() if not entry.needs_source}
        if config.name not in reachable or exists(config.root / config.name):
            raise
        return prepare(config.name, root=config.root, progress=progress)


def run_worker(
    config: ExperimentConfig,
    manifest: Manifest,
    splits: Mapping[str, Split | StreamedSplit],
    folder: Path,
    *,
    worker: Worker,
    send: Callable[[Message], None],
    saved: Callable[[], None] | None = None,
    notice: Notice | None = None,
) -> dict[str, float]:
    """Train, from the newest complete checkpoint in the folder if there is one.

    Args:
        config: The experiment.
        manifest: The prepared data set.
        splits: "train" and "val", as `fix_levels` or `open_stream` return them.
        folder: The run's folder, the same on every worker.
        worker: Rank, number of workers and device.
        send: Called on rank 0.
        saved: Called on rank 0 after something was written into the folder.
        notice: Tells when to save at once, because the worker is about to end.

    Returns:
        Metrics at the end, on rank 0.

    Raises:
        TrainingError: The loss is no longer finite.
    """
    store = CheckpointStore(folder / "checkpoints")
    resume, problems = store.newest()
    for problem in problems if worker.rank == 0 else ():
        send(Message("warning", text=f"{problem}; an older checkpoint is used"))
    if resume is not None and notice is not None and worker.rank == 0:
        send(Message("warning", text=_continuation(resume, worker.world_size)))
    torch.manual_seed(config.training.seed)
    model = build_experiment_model(config, manifest)
    shares = {"rank": worker.rank, "world_size": worker.world_size}
    batches = open_train_batches(
        splits["train"],
        config.data,
        manifest,
        batch_size=config.training.batch_size,
        seed=config.training.seed,
        **shares,
    )
    val = open_eval_batches(
        splits["val"],
        config.data,
        manifest,
        batch_size=config.training.eval_batch_size,
        **shares,
    )

    def validate(model: PixelModel) -> Likelihood:
        precision = config.training.precision
        return evaluate(model, val, device=worker.device, precision=precision)

    scribe = None
    if worker.rank == 0:
        scribe = _Scribe(store, model_info(config, model), folder, send, resume, notice, saved)
    with closing(batches):
        train(
            model,
            batches,
            config.training,
            device=worker.device,
            validate=validate,
            report=scribe or _ignore,
            resume=resume,
            is_save_asked=None if notice is None or scribe is None else notice.is_save_due,
        )
    return scribe.metrics if scribe else {}


def model_info(config: ExperimentConfig, model: PixelModel) -> ModelInfo:
    """Return what a checkpoint says about its model."""
    return ModelInfo(config.to_mapping(), model.image_shape, model.num_levels, model.num_classes)


def evaluate_checkpoint(
    checkpoint: Checkpoint,
    split: Split | StreamedSplit,
    manifest: Manifest,
    *,
    device: torch.device,
    batch_size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Likelihood:
    """Sum the likelihood of a split under a checkpoint, in float32 whatever it was trained in.

    Args:
        checkpoint: What to evaluate.
        split: Images, as `fix_levels` or `open_stream` return them.
        manifest: Their prepared data set.
        device: Where to compute.
        batch_size: Images at a time; the training's `eval_batch_size` by default.
        progress: Told of increments.
    """
    config = parse_experiment(checkpoint.info.experiment, where=str(checkpoint.where))
    size = batch_size or config.training.eval_batch_size
    batches = open_eval_batches(split, config.data, manifest, batch_size=size)
    return evaluate(checkpoint.load_model(device), batches, device=device, progress=progress)


def choose_device(name: str) -> torch.device:
    """Return the device of `auto`, `cpu` or `cuda`.

    Raises:
        RaypixelError: CUDA is asked for and not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise RaypixelError("device must be there, got 'cuda' on a machine without a CUDA device")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _continuation(checkpoint: Checkpoint, num_workers: int) -> str:
    workers = "1 worker" if num_workers == 1 else f"{num_workers} workers"
    return f"continues at step {checkpoint.state['step']:,} with {workers}"


def _ignore(report: Report) -> None:
    """Take the reports of ranks above 0, whose numbers rank 0 has too."""
    del report


class _Scribe:
    """Turn the loop's reports into checkpoints, lines of metrics.jsonl and messages."""

    def __init__(
        self,
        store: CheckpointStore,
        info: ModelInfo,
        folder: Path,
        send: Callable[[Message], None],
        resume: Checkpoint | None,
        notice: Notice | None,
        saved: Callable[[], None] | None,
    ) -> None:
        self.store = store
        self.info = info
        self.file = MetricsFile(folder)
        self.send = send
        self.notice = notice
        self.has_told = False
        self.saved = saved
        self.metrics: dict[str, float] = {}
        self.sent_at = time.monotonic()
        self.images = 0.0
        self.file.forget_after(0 if resume is None else int(resume.state["step"]))

    def __call__(self, report: Report) -> None:
        position = report.position
        if report.kind == "epoch":
            self.metrics = dict(report.metrics)
            # before the checkpoint: a line too much is dropped when resuming, a missing one is lost
            line = {"step": position.step, "epoch": position.epoch, "seconds": position.seconds}
            self.file.append({**line, **self.metrics})
        if report.snapshot is not None:
            is_best = report.is_best
            self.store.save(report.snapshot, self.info, step=position.step, is_best=is_best)
        if self.saved and (report.snapshot is not None or report.kind == "epoch"):
            self.saved()
        if report.snapshot is not None:
            self._note_saved(report)
        if report.kind == "step":
            self._step(report)
        elif report.kind == "epoch":
            self._send("epoch", report, self.metrics)
            self.sent_at = time.monotonic()  # validation is no training time

    def _note_saved(self, report: Report) -> None:
        if self.notice is None:
            return
        self.notice.note_saved()
        if self.notice.was_given.is_set() and not self.has_told:
            self.has_told = True
            step = report.position.step
            self.send(Message("warning", text=f"a worker is to end: saved at step {step:,}"))

    def _step(self, report: Report) -> None:
        self.images += report.metrics["train/images"]
        elapsed = time.monotonic() - self.sent_at
        is_last = report.position.step == report.total_steps
        if elapsed < SECONDS_BETWEEN_STEP_MESSAGES and not is_last:
            return
        metrics = {
            "train/batch_bits_per_dim": report.metrics["train/bits_per_dim"],
            "train/learning_rate": report.metrics["train/learning_rate"],
            "train/images_per_second": self.images / max(elapsed, 1e-9),
        }
        self._send("step", report, metrics)
        self.images, self.sent_at = 0.0, time.monotonic()

    def _send(
        self, kind: Literal["step", "epoch"], report: Report, metrics: Mapping[str, float]
    ) -> None:
        position = report.position
        self.send(
            Message(
                kind,
                step=position.step,
                total_steps=report.total_steps,
                epoch=position.epoch,
                seconds=position.seconds,
                metrics=metrics,
            )
        )
