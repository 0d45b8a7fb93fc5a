"""The trials of a sweep as its driver sees them: what runs, what it reported, how it ended."""

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from raypixel.checkpoint import Checkpoint
from raypixel.jobs import record
from raypixel.jobs.folder import best_checkpoint
from raypixel.jobs.ledger import Ledger, TrialEntry
from raypixel.jobs.post import MESSAGES, Inbox
from raypixel.jobs.remote_run import fetch_run
from raypixel.jobs.tracking import TrackedRun
from raypixel.jobs.worker import Message
from raypixel.storage import Location
from raypixel.sweeps import Sweep, Trial

MAX_SLUG = 60


@dataclass(frozen=True)
class TrialResult:
    """How one trial ended.

    Attributes:
        trial: Its configuration.
        place: Its run's folder.
        entry: Its likelihoods, its cost, and its error if it failed.
    """

    trial: Trial
    place: Location
    entry: TrialEntry

    @property
    def error(self) -> str | None:
        """One line if it failed."""
        return self.entry.error

    @property
    def best(self) -> Checkpoint:
        """The checkpoint with the lowest validation likelihood."""
        return best_checkpoint(self.place)


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


@dataclass
class _Running:
    """A trial that runs: its run in MLflow, and how far its messages were read."""

    trial: Trial
    run: TrackedRun
    started: float
    hours_before: float
    position: int = 0


class Book:
    """Keep what is known of each trial, in the driver: the ledger, its run in MLflow, what it reports."""

    def __init__(
        self,
        sweep: Sweep,
        ledger: Ledger,
        watch: TrialWatch,
        open_run: Callable[[Trial, Location, str], TrackedRun],
    ) -> None:
        """Make the book.

        Args:
            sweep: The sweep.
            ledger: What is known of trials that ran before; it is kept up to date.
            watch: Told of every trial's progress.
            open_run: Opens a trial's run in a folder under a key.
        """
        self.sweep = sweep
        self.ledger = ledger
        self.watch = watch
        self.open_run = open_run
        self.trials: dict[str, Trial] = {}
        self.results: dict[str, TrialResult] = {}
        self._running: dict[str, _Running] = {}
        self._inbox = Inbox()

    def place(self, label: str) -> Location:
        """Return the run's folder of a trial of the ledger."""
        return self.ledger.home / self.ledger.entries[label].run_folder

    def folder(self, label: str) -> Path:
        """Return what this machine has of it."""
        return self.ledger.folder / self.ledger.entries[label].run_folder

    def restore(self, trials: Mapping[str, Trial]) -> None:
        """Take the results of trials that ended in an earlier part of the sweep."""
        for label, trial in trials.items():
            self.trials[label] = trial
            entry = self.ledger.entries[label]
            if entry.is_over:
                self.results[label] = TrialResult(trial, self.place(label), entry)

    def plan(self, trial: Trial) -> Location:
        """Enter a trial that is about to be started, and return its folder."""
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
        self._inbox.open(self.place(trial.label), self.folder(trial.label))
        return self.place(trial.label)

    def start(self, label: str) -> None:
        """Open a trial's run; a retry goes on in the same one."""
        if label in self._running:
            self.ledger.entries[label].retries += 1
            self.ledger.note()
            return
        trial, place = self.trials[label], self.place(label)
        # the same for a trial that is resumed before its first checkpoint
        key = hashlib.sha256(f"{self.ledger.facts['id']} {label}".encode()).hexdigest()[:32]
        run = self.open_run(trial, place, key)
        hours = self.ledger.entries[label].device_hours
        self._running[label] = _Running(trial, run, time.monotonic(), hours)
        self.watch.start(trial)

    def read_news(self) -> bool:
        """Pass on what running trials have written since the last time, and return whether it is anything."""
        counts = [self._read(label) for label in list(self._running)]
        self.ledger.write_if_due()
        return any(counts)

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
        entry.status = "done"
        self._end(label, {f"best/{name}": value for name, value in metrics.items()})

    def stop(self, label: str, reason: str) -> None:
        """Record a trial that was stopped before its end; does nothing for one that has ended."""
        if label not in self._running:
            return
        self._drain(label)
        entry = self.ledger.entries[label]
        entry.status, entry.stopped_by = "stopped", reason
        best = {
            "best/val/bits_per_dim": entry.val_bits_per_dim,
            "best/val/nll_nats": entry.val_nll_nats,
        }
        self._end(label, {name: value for name, value in best.items() if value is not None})

    def fail(self, label: str, error: str) -> None:
        """Record a trial that failed for good."""
        if label not in self._running:  # its process died before it began
            self.start(label)
        self._drain(label)
        entry = self.ledger.entries[label]
        entry.status, entry.error = "failed", error
        self._end(label, {})

    def close(self) -> None:
        """Mark the runs of trials that have not ended: the sweep was stopped."""
        for label, running in self._running.items():
            self._drain(label)
            running.run.finish("KILLED")
        self._inbox.close()
        self.ledger.write()

    def running(self) -> list[str]:
        """Return the labels of the trials that run."""
        return list(self._running)

    def _drain(self, label: str) -> None:
        """Read what a trial that has ended has written, to the end."""
        self._inbox.shut(self.place(label))
        self._read(label)

    def _read(self, label: str) -> int:
        running = self._running[label]
        path = self.folder(label) / MESSAGES
        try:
            with path.open("rb") as file:
                file.seek(running.position)
                new = file.read()
        except FileNotFoundError:
            return 0
        whole = new[: new.rfind(b"\n") + 1]
        running.position += len(whole)
        for line in whole.splitlines():
            self._take(running, Message(**json.loads(line)))
        return len(whole)

    def _take(self, running: _Running, message: Message) -> None:
        record.record(running.run, message)
        entry = self.ledger.entries[running.trial.label]
        if message.kind == "epoch":
            entry.epoch, entry.seconds = message.epoch, message.seconds
            entry.device_hours = self._device_hours(running)
            value = message.metrics["val/bits_per_dim"]
            if entry.val_bits_per_dim is None or value < entry.val_bits_per_dim:
                entry.val_bits_per_dim = value
                entry.val_nll_nats = message.metrics["val/nll_nats"]
            self.ledger.note()
        self.watch.progress(running.trial, message)

    def _end(self, label: str, metrics: Mapping[str, float]) -> None:
        running = self._running.pop(label)
        entry, run, place = self.ledger.entries[label], running.run, self.place(label)
        entry.device_hours = self._device_hours(running)
        result = self.results[label] = TrialResult(running.trial, place, entry)
        if metrics:
            run.log(metrics, step=0)
        run.tag("raypixel.status", entry.status)
        if entry.stopped_by:
            run.tag("raypixel.stopped_by", entry.stopped_by)
        if entry.error:
            run.tag("raypixel.error", entry.error)
        else:
            record.record_files(run, fetch_run(place))
        run.finish("FAILED" if entry.error else "KILLED" if entry.stopped_by else "FINISHED")
        self.ledger.write()
        self.watch.finish(result)

    def _device_hours(self, running: _Running) -> float:
        num_workers = self.sweep.config.raypixel.resources.workers
        seconds = time.monotonic() - running.started
        return running.hours_before + seconds * num_workers / 3600


def _slug(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9._=-]+", "-", label)[:MAX_SLUG].rstrip("-")
