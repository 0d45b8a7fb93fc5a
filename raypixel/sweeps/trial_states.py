"""The trials of a sweep as its driver sees them: what runs, what it reported, how it ended."""

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Protocol

from raypixel.checkpoint import Checkpoint
from raypixel.data import DataConfig
from raypixel.errors import StorageError
from raypixel.experiment import ExperimentConfig
from raypixel.runs import Event, Follower, Run
from raypixel.sweeps.ledger import Ledger, TrialEntry
from raypixel.sweeps.trials import Sweep, Trial

MAX_SLUG = 60


@dataclass(frozen=True)
class TrialResult:
    """How one trial ended.

    Attributes:
        trial: Its configuration.
        run: What it trained into.
        entry: Its likelihoods, its cost, and its error if it failed.
    """

    trial: Trial
    run: Run
    entry: TrialEntry

    @property
    def error(self) -> str | None:
        """One line if it failed."""
        return self.entry.error

    @property
    def best(self) -> Checkpoint:
        """The checkpoint with the lowest validation likelihood."""
        return self.run.best()


class TrialWatch(Protocol):
    """What a sweep tells its caller about trials; the methods are called in the driver process."""

    def start(self, trial: Trial) -> None:
        """A trial runs."""
        ...

    def progress(self, trial: Trial, event: Event) -> None:
        """A trial tells something."""
        ...

    def finish(self, result: TrialResult) -> None:
        """A trial ended."""
        ...


@dataclass
class _Running:
    trial: Trial
    started: float
    hours_before: float


class TrialStates:
    """Keep what is known of each trial, in the driver: the ledger, its run, what it tells."""

    def __init__(
        self,
        sweep: Sweep,
        ledger: Ledger,
        watch: TrialWatch,
        begin: Callable[[Trial, ExperimentConfig, Run, str], None],
        data: DataConfig,
    ) -> None:
        """Begin with what the ledger has.

        Args:
            sweep: The sweep.
            ledger: What is known of trials that ran before; it is kept up to date.
            watch: Told of every trial's progress.
            begin: Begins a trial's run of an experiment under an id.
            data: Says whether data is in memory or streamed, which is decided for all trials at once.
        """
        self.sweep = sweep
        self.ledger = ledger
        self.watch = watch
        self.begin = begin
        self.data = data
        self.trials: dict[str, Trial] = {}
        self.results: dict[str, TrialResult] = {}
        self._running: dict[str, _Running] = {}
        self._follower = Follower()

    def run(self, label: str) -> Run:
        """Return the run of a trial of the ledger."""
        return Run.at(self.ledger.home / self.ledger.entries[label].run_folder)

    def experiment(self, trial: Trial) -> ExperimentConfig:
        """Return what a trial trains."""
        data = trial.config.data.model_copy(update={"backend": self.data.backend})
        return trial.config.model_copy(update={"data": data})

    def restore(self, trials: Mapping[str, Trial]) -> None:
        """Take the results of trials that ended in an earlier part of the sweep."""
        for label, trial in trials.items():
            self.trials[label] = trial
            entry = self.ledger.entries[label]
            if entry.is_over:
                self.results[label] = TrialResult(trial, self.run(label), entry)

    def plan(self, trial: Trial) -> Run:
        """Enter a trial that is about to be started, and return its run."""
        self.trials[trial.label] = trial
        if trial.label not in self.ledger.entries:
            number = len(self.ledger.entries) + 1
            reference = self.sweep.config.raypixel.reference
            self.ledger.entries[trial.label] = TrialEntry(
                name=trial.label,
                configuration=trial.configuration,
                parameters=dict(trial.parameters),
                seed=trial.seed,
                run_folder=f"trials/{number:03d}-{_slug(trial.label)}",
                num_parameters=self.sweep.num_parameters.get(trial.label),
                reference=reference.value_at(trial.options) if reference else None,
            )
        entry = self.ledger.entries[trial.label]
        entry.status, entry.error, entry.stopped_by = "running", None, None
        self.ledger.write()
        return self.run(trial.label)

    def start(self, label: str) -> None:
        """Open a trial's run; a retry goes on in the same one."""
        if label in self._running:
            self.ledger.entries[label].retries += 1
            self.ledger.note()
            return
        trial, run = self.trials[label], self.run(label)
        # the same for a trial that is resumed before its first checkpoint
        run_id = hashlib.sha256(f"{self.ledger.facts['id']} {label}".encode()).hexdigest()[:32]
        self.begin(trial, self.experiment(trial), run, run_id)
        run.join(self._follower, label)
        hours = self.ledger.entries[label].device_hours
        self._running[label] = _Running(trial, time.monotonic(), hours)
        self.watch.start(trial)

    def read_events(self) -> bool:
        """Pass on what running trials have told since the last time, and return whether it is anything."""
        new = self._follower.read()
        for label, event in new:
            self._take(self._running[label], event)
        self.ledger.write_if_due()
        return bool(new)

    def finish(self, label: str, metrics: Mapping[str, float]) -> None:
        """Record a trial that reached its end."""
        entry = self.ledger.entries[label]
        self._drain(label)
        entry.val_bits_per_dim = metrics["val/bits_per_dim"]
        entry.val_nll_nats = metrics["val/nll_nats"]
        entry.seconds = metrics["seconds"]
        entry.test = {
            name: metrics[f"test/{name}"]
            for name in ("bits_per_dim", "nll_nats", "standard_error_nats", "num_images")
        }
        if "sampling/seconds" in metrics:
            entry.sampling = {n: metrics[f"sampling/{n}"] for n in ("seconds", "num_images")}
        self._end(label, "done", {f"best/{name}": value for name, value in metrics.items()})

    def stop(self, label: str, reason: str) -> None:
        """Record a trial that was stopped before its end; does nothing for one that has ended."""
        if label not in self._running:
            return
        self._drain(label)
        entry = self.ledger.entries[label]
        entry.stopped_by = reason
        best = {
            "best/val/bits_per_dim": entry.val_bits_per_dim,
            "best/val/nll_nats": entry.val_nll_nats,
        }
        known = {name: value for name, value in best.items() if value is not None}
        self._end(label, "stopped", known)

    def fail(self, label: str, error: str) -> None:
        """Record a trial that failed for good."""
        if label not in self._running:  # its process died before it began
            self.start(label)
        self._drain(label)
        entry = self.ledger.entries[label]
        entry.error = error
        self._end(label, "failed", {})

    def close(self) -> None:
        """End the runs of trials that have not ended: the sweep was stopped."""
        for label in list(self._running):
            self._drain(label)
            self._end_run(label, Event("end", status="killed"))
        self._follower.close()
        self.ledger.write()

    def running(self) -> list[str]:
        """Return the labels of the trials that run."""
        return list(self._running)

    def _drain(self, label: str) -> None:
        """Read what a trial that has ended has told, to the end."""
        for event in self._follower.remove(label):
            self._take(self._running[label], event)

    def _take(self, running: _Running, event: Event) -> None:
        entry = self.ledger.entries[running.trial.label]
        if event.kind == "epoch":
            entry.epoch, entry.seconds = event.epoch, event.seconds
            entry.device_hours = self._device_hours(running)
            value = event.metrics["val/bits_per_dim"]
            if entry.val_bits_per_dim is None or value < entry.val_bits_per_dim:
                entry.val_bits_per_dim = value
                entry.val_nll_nats = event.metrics["val/nll_nats"]
            self.ledger.note()
        self.watch.progress(running.trial, event)

    def _end(
        self, label: str, status: Literal["done", "stopped", "failed"], metrics: Mapping[str, float]
    ) -> None:
        running, entry = self._running.pop(label), self.ledger.entries[label]
        entry.status = status
        entry.device_hours = self._device_hours(running)
        result = self.results[label] = TrialResult(running.trial, self.run(label), entry)
        text = entry.error or entry.stopped_by or ""
        self._end_run(label, Event("end", metrics=metrics, text=text, status=status))
        self.ledger.write()
        self.watch.finish(result)

    def _end_run(self, label: str, event: Event) -> None:
        run = self.run(label)
        with suppress(StorageError):  # trials.json says it too
            run.end(event)
            if event.status != "failed":
                run.fetch()  # for who publishes its files

    def _device_hours(self, running: _Running) -> float:
        num_workers = self.sweep.config.raypixel.resources.workers
        seconds = time.monotonic() - running.started
        return running.hours_before + seconds * num_workers / 3600


def _slug(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9._=-]+", "-", label)[:MAX_SLUG].rstrip("-")
