"""Tune's searcher and callback over ours: what a sweep tries next, and what Tune tells of its trials.

Tune retries a trial whose process dies, with one exception: where an actor is used again and turns out to be dead, the trial that
was given to it has not begun, and Tune gives it up at once. Such a trial is asked for again here.
"""

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from raypixel.experiment import override
from raypixel.storage import absolute
from raypixel.sweeps.actor import order_of
from raypixel.sweeps.search import Search
from raypixel.sweeps.trial_states import TrialStates
from raypixel.sweeps.trials import Trial
from raypixel.train.ray_cluster import remove_abandoned_groups, waiting_groups

DIED = "the trial's process died"
SECONDS_BETWEEN_LOOKS = 10.0
SECONDS_BETWEEN_REMOVALS = 1.0
STALL_SECONDS = 300.0


class GivenUp:
    """Trials that Tune gave up before they began, to be asked for again."""

    def __init__(self, states: TrialStates, most: int) -> None:
        """Begin with none; each trial comes again `most` times at most."""
        self.states = states
        self.most = most
        self.labels: list[str] = []
        self._counts: Counter[str] = Counter()

    def take(self, label: str) -> bool:
        """Take a trial that Tune gave up, unless it had begun or came too often; return whether it was taken."""
        is_over = label in self.states.running() or label in self.states.results
        if is_over or self._counts[label] >= self.most:
            return False
        self._counts[label] += 1
        self.states.ledger.entries[label].retries += 1
        self.labels.append(label)
        return True

    def give_up(self) -> None:
        """Mark those as failed that will not be asked for any more."""
        while self.labels:
            self.states.fail(self.labels.pop(), DIED)


class StallWatch:
    """Warn when nothing was heard for a time while something waits for resources."""

    def __init__(
        self,
        running: Callable[[], Sequence[str]],
        warn: Callable[[str], None],
        *,
        stall_s: float = STALL_SECONDS,
    ) -> None:
        """Start to watch.

        Args:
            running: Returns the labels of the trials that run.
            warn: Shows a line.
            stall_s: Silence that is too long.
        """
        self.running = running
        self.warn = warn
        self.stall_s = stall_s
        self.heard_at = self.looked_at = time.monotonic()

    def forget(self) -> None:
        """Take note that something happened."""
        self.heard_at = time.monotonic()

    def look(self) -> None:
        """Warn if it is time; called often."""
        now = time.monotonic()
        if now - self.looked_at < min(SECONDS_BETWEEN_LOOKS, self.stall_s):
            return
        self.looked_at = now
        waiting = waiting_groups() if now - self.heard_at >= self.stall_s else []
        if not waiting:
            return
        self.heard_at = now
        running = ", ".join(self.running()) or "no trial"
        self.warn(
            f"nothing happened for {self.stall_s:.0f} s: {running} running, waiting for "
            f"{'; '.join(waiting)}"
        )


def target_is_reached(states: TrialStates) -> bool:
    """Return whether a trial has reached the target of the sweep's metric."""
    metric = states.sweep.config.metric
    if metric.target is None:
        return False
    values = [result.entry.value(metric.name) for result in states.results.values()]
    return any(value is not None and value <= metric.target for value in values)


def searcher(states: TrialStates, search: Search, given_up: GivenUp) -> Any:
    """Make Tune's searcher over ours; made here because its base class is Ray's."""
    from ray.tune.search import Searcher

    sweep = states.sweep

    class Bridge(Searcher):
        def __init__(self) -> None:
            super().__init__()
            self.labels: dict[str, str] = {}

        def __reduce__(self) -> Any:
            return Searcher, ()  # Tune stores its searcher; the states stay in this process

        def suggest(self, trial_id: str) -> Any:
            if target_is_reached(states):
                return Searcher.FINISHED
            if given_up.labels:
                trial: Trial | None = states.trials[given_up.labels.pop(0)]
            elif search.is_over:  # those that run may yet come again
                return None if self.labels else Searcher.FINISHED
            else:
                trial = search.next()
            if trial is None:
                return None
            self.labels[trial_id] = trial.label
            return {"order": order_for(states, trial)}

        def on_trial_complete(
            self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
        ) -> None:
            label = self.labels.pop(trial_id)
            if error and given_up.take(label):
                return
            ended = states.results.get(label)
            search.tell(
                states.trials[label], ended.entry.value(sweep.config.metric.name) if ended else None
            )

        def save(self, checkpoint_path: str) -> None:
            Path(checkpoint_path).touch()

        def restore(self, checkpoint_path: str) -> None:
            """Keep nothing: see the module."""

    return Bridge()


def order_for(states: TrialStates, trial: Trial) -> dict[str, Any]:
    """Plan a trial, and return what it is to do, as `raypixel.sweeps.actor.order_of` reads it."""
    sweep, run = states.sweep, states.plan(trial)
    is_copied = sweep.config.raypixel.scheduler == "pbt"
    # a trial's process has another working folder
    root = {"data.root": str(absolute(trial.config.data.root))}
    experiment = override(states.experiment(trial).to_mapping(), root)
    mutable = trial.parameters if is_copied else {}
    return {
        "label": trial.label,
        "folder": str(run.home),
        "experiment": json.dumps(experiment),
        "parameters": {
            name: value
            for name, value in mutable.items()
            if sweep.config.parameters[name].is_varied
        },
        "metric": sweep.config.metric.name,
        "num_samples": sweep.config.raypixel.num_samples,
        "is_copied": is_copied,
    }


def callback(
    states: TrialStates, planned: list[dict[str, Any]], stall: StallWatch, given_up: GivenUp
) -> Any:
    """Make the Tune callback that writes into the states; made here because its base class is Ray's."""
    from ray import tune

    block = states.sweep.config.raypixel
    reason = "early_terminate" if block.scheduler is None else block.scheduler

    class Callback(tune.Callback):
        removed_at = 0.0

        def __reduce__(self) -> Any:
            return tune.Callback, ()  # Tune stores its callbacks; the states stay in this process

        def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
            if states.read_events():
                stall.forget()
            stall.look()
            if time.monotonic() - self.removed_at >= SECONDS_BETWEEN_REMOVALS:
                remove_abandoned_groups()
                self.removed_at = time.monotonic()

        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            stall.forget()
            states.start(order_of(trial.trial_id, trial.config, planned)["label"])

        def on_trial_result(
            self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            stall.forget()
            label = order_of(trial.trial_id, trial.config, planned)["label"]
            if label in states.running() and "problems" in result:
                states.fail(label, "; ".join(result["problems"]))
            elif label in states.running() and "result" in result:
                states.finish(label, result["result"])

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            label = order_of(trial.trial_id, trial.config, planned)["label"]
            states.stop(label, reason)

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            label = order_of(trial.trial_id, trial.config, planned)["label"]
            if label in given_up.labels:
                return
            states.fail(label, _reason(trial))

    return Callback()


def _reason(trial: Any) -> str:
    """Return one line for what ended a trial: the last of the traceback that Tune keeps before it copies it to storage."""
    file = trial.error_file and Path(trial.error_file)
    lines = file.read_text().strip().splitlines() if file and file.exists() else []
    is_traceback = bool(lines) and re.match(r"[\w.]+: ", lines[-1]) is not None
    return lines[-1] if is_traceback else DIED
