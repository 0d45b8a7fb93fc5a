"""What one training process does, however it was started: in this process, under Ray Train, or as a Tune trial.

Rank 0 writes the run (`raypixel.runs`); whoever watches follows its events.
"""

import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from raypixel.checkpoint import Checkpoint, CheckpointStore, ModelInfo
from raypixel.data import Manifest
from raypixel.data.batches import EvalBatches, ImageSource, TrainBatches
from raypixel.evaluation import evaluate
from raypixel.experiment import ExperimentConfig, build_experiment_model
from raypixel.models import PixelModel
from raypixel.runs import Event, RunWriter
from raypixel.train.preemption import Notice
from raypixel.training import Report, train
from raypixel.units import Likelihood

SECONDS_BETWEEN_STEPS = 0.5


@dataclass(frozen=True)
class Worker:
    """Where a process stands among those of its training."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


def run_worker(
    config: ExperimentConfig,
    manifest: Manifest,
    splits: Mapping[str, ImageSource],
    folder: Path,
    *,
    worker: Worker,
    writer: RunWriter | None,
    notice: Notice | None = None,
) -> dict[str, float]:
    """Train, from the newest complete checkpoint in the folder if there is one.

    Args:
        config: The experiment, as `Run.begin` returns it.
        manifest: The prepared data set.
        splits: "train" and "val", as `open_split` returns them.
        folder: The run's folder, the same on every worker.
        worker: Rank, number of workers and device.
        writer: Writes the run; given to rank 0.
        notice: Tells when to save at once, because the worker is about to end.

    Returns:
        Metrics at the end, on rank 0.

    Raises:
        TrainingError: The loss is no longer finite.
    """
    store = CheckpointStore(folder / "checkpoints")
    resume, problems = store.newest()
    recorder = None
    if writer is not None:
        recorder = _Recorder(writer, store, resume, notice)
        for problem in problems:
            writer.warn(f"{problem}; an older checkpoint is used")
        if resume is not None and notice is not None:
            writer.warn(_continuation(resume, worker.world_size))
    torch.manual_seed(config.training.seed)
    model = build_experiment_model(config, manifest)
    shares = {"rank": worker.rank, "world_size": worker.world_size}
    batches = TrainBatches(
        splits["train"],
        config.data,
        manifest,
        batch_size=config.training.batch_size,
        seed=config.training.seed,
        **shares,
    )
    val = EvalBatches(
        splits["val"],
        config.data,
        manifest,
        batch_size=config.training.eval_batch_size,
        **shares,
    )

    def validate(model: PixelModel) -> Likelihood:
        precision = config.training.precision
        return evaluate(model, val, device=worker.device, precision=precision)

    if recorder is not None:
        recorder.info = model_info(config, model)
    with closing(batches):
        train(
            model,
            batches,
            config.training,
            device=worker.device,
            validate=validate,
            report=recorder or _ignore,
            resume=resume,
            is_save_asked=None if notice is None or recorder is None else notice.is_save_due,
        )
    return recorder.metrics if recorder else {}


def model_info(config: ExperimentConfig, model: PixelModel) -> ModelInfo:
    """Return what a checkpoint says about its model."""
    return ModelInfo(config.to_mapping(), model.image_shape, model.num_levels, model.num_classes)


def _continuation(checkpoint: Checkpoint, num_workers: int) -> str:
    workers = "1 worker" if num_workers == 1 else f"{num_workers} workers"
    return f"continues at step {checkpoint.state['step']:,} with {workers}"


def _ignore(report: Report) -> None:
    """Take the reports of ranks above 0, whose numbers rank 0 has too."""
    del report


class _Recorder:
    """Write the loop's reports into the run's folder: checkpoints, lines of metrics.jsonl, events."""

    info: ModelInfo

    def __init__(
        self,
        writer: RunWriter,
        store: CheckpointStore,
        resume: Checkpoint | None,
        notice: Notice | None,
    ) -> None:
        self.writer = writer
        self.store = store
        self.notice = notice
        self.has_told = False
        self.metrics: dict[str, float] = {}
        self.told_at = time.monotonic()
        self.images = 0.0
        writer.forget_after(0 if resume is None else int(resume.state["step"]))

    def __call__(self, report: Report) -> None:
        position = report.position
        if report.kind == "note":
            self.writer.warn(report.text)
        if report.kind == "epoch":
            self.metrics = dict(report.metrics)
            # before the checkpoint: a line too much is dropped when resuming, a missing one is lost
            line = {"step": position.step, "epoch": position.epoch, "seconds": position.seconds}
            self.writer.append_metrics({**line, **self.metrics})
        if report.snapshot is not None:
            is_best = report.is_best
            self.store.save(report.snapshot, self.info, step=position.step, is_best=is_best)
        if report.snapshot is not None or report.kind == "epoch":
            self.writer.saved()
        if report.snapshot is not None:
            self._note_saved(report)
        if report.kind == "step":
            self._step(report)
        elif report.kind == "epoch":
            self._tell_numbers("epoch", report, self.metrics)
            self.told_at = time.monotonic()  # validation is no training time

    def _note_saved(self, report: Report) -> None:
        if self.notice is None:
            return
        if self.notice.was_given.is_set():  # soon there is nobody to put it
            self.writer.flush()
        self.notice.note_saved()
        if self.notice.was_given.is_set() and not self.has_told:
            self.has_told = True
            step = report.position.step
            self.writer.warn(f"a worker is to end: saved at step {step:,}")

    def _step(self, report: Report) -> None:
        self.images += report.metrics["train/images"]
        elapsed = time.monotonic() - self.told_at
        is_last = report.position.step == report.total_steps
        if elapsed < SECONDS_BETWEEN_STEPS and not is_last:
            return
        metrics = {
            "train/batch_bits_per_dim": report.metrics["train/bits_per_dim"],
            "train/learning_rate": report.metrics["train/learning_rate"],
            "train/images_per_second": self.images / max(elapsed, 1e-9),
        }
        self._tell_numbers("step", report, metrics)
        self.images, self.told_at = 0.0, time.monotonic()

    def _tell_numbers(
        self, kind: Literal["step", "epoch"], report: Report, metrics: Mapping[str, float]
    ) -> None:
        position = report.position
        self.writer.events.append(
            Event(
                kind,
                step=position.step,
                total_steps=report.total_steps,
                epoch=position.epoch,
                seconds=position.seconds,
                metrics=metrics,
            )
        )
