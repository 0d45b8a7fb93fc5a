"""A sweep as it runs: a live table in a terminal, a line for each ended trial anywhere."""

import sys
from typing import TYPE_CHECKING

from rich.live import Live
from rich.table import Table

from raypixel.cli.progress import console, say
from raypixel.units import duration

if TYPE_CHECKING:
    from raypixel.runs import Event
    from raypixel.sweeps import Trial
    from raypixel.sweeps.trial_states import TrialResult

REFRESHES_PER_SECOND = 2
UNITS = {"val/bits_per_dim": "bits/dim", "val/nll_nats": "nats"}


class SweepWatch:
    """Show the trials that run, the best so far, and each trial as it ends."""

    def __init__(self, num_trials: int, metric: str, *, num_ended: int = 0) -> None:
        from raypixel.sweeps.ranking import DIGITS

        self.num_trials = num_trials
        self.metric = metric
        self.unit, self.digits = UNITS[metric], DIGITS[metric]
        self.num_ended = num_ended
        self.best: tuple[float, str] | None = None
        self.running: dict[str, list[str]] = {}
        is_terminal = sys.stderr.isatty()
        self.live = (
            Live(console=console(), refresh_per_second=REFRESHES_PER_SECOND, transient=True)
            if is_terminal
            else None
        )

    def __enter__(self) -> "SweepWatch":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.live:
            self.live.stop()

    def say(self, line: str) -> None:
        """Print a line above the table."""
        if self.live:
            self.live.console.print(line, markup=False, soft_wrap=True)
        else:
            say(line)

    def start(self, trial: "Trial") -> None:
        """Show a trial that runs."""
        self.running[trial.label] = ["starting", "", "", ""]
        self._refresh()

    def progress(self, trial: "Trial", event: "Event") -> None:
        """Show how far a trial is."""
        if event.kind == "warning":
            self.say(f"{trial.label}: {event.text}")
            return
        row = self.running[trial.label]
        done = event.step / max(1, event.total_steps)
        row[0], row[1] = f"{done:.0%}", duration(event.seconds)
        if event.kind == "epoch":
            row[2] = self._shown(event.metrics[self.metric])
        else:
            row[3] = f"{event.metrics['train/images_per_second']:.0f}"
        self._refresh()

    def finish(self, result: "TrialResult") -> None:
        """Print how a trial ended."""
        self.num_ended += 1
        label = result.trial.label
        self.running.pop(label, None)
        value = result.entry.value(self.metric)
        if value is not None and (self.best is None or value < self.best[0]):
            self.best = (value, label)
        self.say(f"[{self.num_ended}/{self.num_trials}] {label}: {self._outcome(result)}")
        self._refresh()

    def _refresh(self) -> None:
        if not self.live:
            return
        title = f"{self.num_ended} of {self.num_trials} trials ended"
        if self.best:
            title += f", best {self.metric} {self._shown(self.best[0])}: {self.best[1]}"
        drawn = Table(
            "trial", "done", "time", f"val {self.unit}", "images/s", title=title, box=None
        )
        for label, row in self.running.items():
            drawn.add_row(label, *row)
        self.live.update(drawn)

    def _outcome(self, result: "TrialResult") -> str:
        entry, value = result.entry, result.entry.value(self.metric)
        if entry.error:
            return f"failed: {entry.error}"
        val = "no epoch yet" if value is None else f"val {self._shown(value)}"
        time = duration(entry.seconds or 0.0)
        if entry.stopped_by:
            unit = "" if value is None else f" {self.unit}"
            return f"stopped by {entry.stopped_by} after {entry.epoch} epochs, {val}{unit}, {time}"
        assert entry.test is not None
        test = entry.test[self.metric.removeprefix("val/")]
        return f"{val}, test {self._shown(test)} {self.unit}, {time}"

    def _shown(self, value: float) -> str:
        return f"{value:.{self.digits}f}"
