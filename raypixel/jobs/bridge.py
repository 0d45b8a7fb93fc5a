"""Tune's searcher and callback over ours: what a sweep tries next, and what Tune tells of its trials.

Tune retries a trial whose process dies, with one exception: where an actor is used again and turns out to be dead, the trial that
was given to it has not begun, and Tune gives it up at once. Such a trial is asked for again here.
"""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from raypixel.experiment import override
from raypixel.jobs.placement import Reaper
from raypixel.jobs.ray_train import RAY_FOLDER
from raypixel.jobs.stall import StallWatch
from raypixel.jobs.trial import order_of
from raypixel.jobs.trials import Book
from raypixel.storage import Location, absolute
from raypixel.sweeps import Search, Sweep, Trial

DIED = "the trial's process died"


class Again:
    """Trials that Tune gave up before they began, to be asked for again."""

    def __init__(self, book: Book, most: int) -> None:
        """Begin with none; each trial comes again `most` times at most."""
        self.book = book
        self.most = most
        self.labels: list[str] = []
        self._counts: Counter[str] = Counter()

    def take(self, label: str) -> bool:
        """Take a trial that Tune gave up, unless it had begun or came too often; return whether it was taken."""
        is_over = label in self.book.running() or label in self.book.results
        if is_over or self._counts[label] >= self.most:
            return False
        self._counts[label] += 1
        self.book.ledger.entries[label].retries += 1
        self.labels.append(label)
        return True

    def give_up(self) -> None:
        """Mark those as failed that will not be asked for any more."""
        while self.labels:
            self.book.fail(self.labels.pop(), DIED)


def target_is_reached(book: Book) -> bool:
    """Return whether a trial has reached the target of the sweep's metric."""
    metric = book.sweep.config.metric
    if metric.target is None:
        return False
    values = [result.entry.value(metric.name) for result in book.results.values()]
    return any(value is not None and value <= metric.target for value in values)


def searcher(book: Book, search: Search, again: Again) -> Any:
    """Make Tune's searcher over ours; made here because its base class is Ray's."""
    from ray.tune.search import Searcher

    sweep = book.sweep

    class Bridge(Searcher):
        def __init__(self) -> None:
            super().__init__()
            self.labels: dict[str, str] = {}

        def __reduce__(self) -> Any:
            return Searcher, ()  # Tune stores its searcher; the book stays in this process

        def suggest(self, trial_id: str) -> Any:
            if target_is_reached(book):
                return Searcher.FINISHED
            if again.labels:
                trial: Trial | None = book.trials[again.labels.pop(0)]
            elif search.is_over:  # those that run may yet come again
                return None if self.labels else Searcher.FINISHED
            else:
                trial = search.next()
            if trial is None:
                return None
            self.labels[trial_id] = trial.label
            return {"order": order_for(sweep, trial, book.plan(trial))}

        def on_trial_complete(
            self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
        ) -> None:
            label = self.labels.pop(trial_id)
            if error and again.take(label):
                return
            ended = book.results.get(label)
            search.tell(
                book.trials[label], ended.entry.value(sweep.config.metric.name) if ended else None
            )

        def save(self, checkpoint_path: str) -> None:
            Path(checkpoint_path).touch()

        def restore(self, checkpoint_path: str) -> None:
            """Keep nothing: see the module."""

    return Bridge()


def order_for(sweep: Sweep, trial: Trial, place: Location) -> dict[str, Any]:
    """Return what a trial is to do, as `raypixel.jobs.trial.order_of` reads it."""
    is_copied = sweep.config.raypixel.scheduler == "pbt"
    # a trial's process has another working folder
    root = {"data.root": str(absolute(trial.config.data.root))}
    experiment = override(trial.config.to_mapping(), root)
    mutable = trial.parameters if is_copied else {}
    return {
        "label": trial.label,
        "folder": str(place),
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


def callback(book: Book, planned: list[dict[str, Any]], stall: StallWatch, again: Again) -> Any:
    """Make the Tune callback that writes into the book; made here because its base class is Ray's."""
    from ray import tune

    block = book.sweep.config.raypixel
    reason = "early_terminate" if block.scheduler is None else block.scheduler
    reaper = Reaper()

    class Callback(tune.Callback):
        def __reduce__(self) -> Any:
            return tune.Callback, ()  # Tune stores its callbacks; the book stays in this process

        def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
            if book.read_news():
                stall.forget()
            stall.look()
            reaper.look()

        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            stall.forget()
            book.start(order_of(trial.trial_id, trial.config, planned)["label"])

        def on_trial_result(
            self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            stall.forget()
            label = order_of(trial.trial_id, trial.config, planned)["label"]
            if label in book.running() and "problems" in result:
                book.fail(label, "; ".join(result["problems"]))
            elif label in book.running() and "result" in result:
                book.finish(label, result["result"])

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            label = order_of(trial.trial_id, trial.config, planned)["label"]
            book.stop(label, reason)
            reaper.add(book.place(label) / RAY_FOLDER)

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            label = order_of(trial.trial_id, trial.config, planned)["label"]
            if label in again.labels:
                return
            book.fail(label, _reason(trial))
            reaper.add(book.place(label) / RAY_FOLDER)

    return Callback()


def _reason(trial: Any) -> str:
    """Return one line for what ended a trial: the last of the traceback that Tune keeps before it copies it to storage."""
    file = trial.error_file and Path(trial.error_file)
    lines = file.read_text().strip().splitlines() if file and file.exists() else []
    is_traceback = bool(lines) and re.match(r"[\w.]+: ", lines[-1]) is not None
    return lines[-1] if is_traceback else DIED
