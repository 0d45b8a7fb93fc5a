"""The trials of a sweep as its driver sees them: what runs, what it reported, how it ended."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from raypixel.checkpoint import Checkpoint
from raypixel.jobs import record
from raypixel.jobs.folder import best_checkpoint
from raypixel.jobs.ray_train import root_cause
from raypixel.jobs.tracking import TrackedRun
from raypixel.jobs.worker import Message
from raypixel.sweeps import Trial


@dataclass(frozen=True)
class TrialResult:
    """How one trial ended.

    Attributes:
        trial: Its configuration.
        folder: Its run's folder.
        metrics: Best validation and test likelihoods, parameters, seconds; empty if it failed.
        error: One line if it failed.
    """

    trial: Trial
    folder: Path
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None

    @property
    def best(self) -> Checkpoint:
        """The checkpoint with the lowest validation likelihood."""
        return best_checkpoint(self.folder)


class TrialWatch(Protocol):
    """What a sweep tells its caller about trials; the methods are called in the driver process."""

    def start(self, trial: Trial) -> None:
        """A trial runs."""
        ...

    def progress(self, trial: Trial, message: Message) -> None:
        """A trial has news."""
        ...

    def finish(self, result: TrialResult) -> None:
        """A trial ended."""
        ...


class Book:
    """Keep what is known of each trial, in the driver: its run in MLflow and how it ended."""

    def __init__(
        self,
        trials: dict[str, Trial],
        folders: dict[str, Path],
        watch: TrialWatch,
        open_run: Callable[[Trial], TrackedRun],
    ) -> None:
        self.trials = trials
        self.folders = folders
        self.watch = watch
        self.open_run = open_run
        self.runs: dict[str, TrackedRun] = {}
        self.results: dict[str, TrialResult] = {}

    def start(self, label: str) -> None:
        """Open a trial's run; a retry goes on in the same one."""
        if label not in self.runs:
            self.runs[label] = self.open_run(self.trials[label])
        self.watch.start(self.trials[label])

    def progress(self, label: str, message: Message) -> None:
        """Record a trial's news."""
        record.record(self.runs[label], message)
        self.watch.progress(self.trials[label], message)

    def close(self) -> None:
        """Mark the runs of trials that have not ended: the sweep was stopped."""
        for run in self.runs.values():
            run.finish("KILLED")

    def finish(
        self, label: str, *, metrics: Mapping[str, float] | None = None, error: str | None = None
    ) -> None:
        """Record how a trial ended."""
        result = TrialResult(self.trials[label], self.folders[label], metrics or {}, error)
        self.results[label] = result
        run = self.runs[label]
        if error is None:
            run.log({f"best/{name}": value for name, value in result.metrics.items()}, step=0)
            record.record_files(run, result.folder)
        else:
            run.tag("raypixel.error", error)
        run.finish("FINISHED" if error is None else "FAILED")
        self.watch.finish(result)


def tune_callback(book: Book) -> Any:
    """Make the Tune callback that writes into the book; made here because its base class is Ray's."""
    from ray import tune

    class Callback(tune.Callback):
        def __reduce__(self) -> Any:
            return tune.Callback, ()  # Tune stores its callbacks; the book stays in this process

        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            book.start(trial.config["label"])

        def on_trial_result(
            self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            label = trial.config["label"]
            if "message" in result:
                book.progress(label, Message(**result["message"]))
            elif "problems" in result:
                book.finish(label, error="; ".join(result["problems"]))
            elif "result" in result:
                book.finish(label, metrics=result["result"])

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            error = trial.get_error()
            reason = root_cause(error) if error else "the trial's process died"
            book.finish(trial.config["label"], error=reason)

    return Callback()
