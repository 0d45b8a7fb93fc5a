"""Publishing to MLflow: a follower of the folders of runs and sweeps, in the driver, on a thread.

Everything that MLflow is told is in a folder before, so nothing is queued, nothing is lost and nothing depends on when it is
told: a run is found again by its key, a point of a metric by its time, and publishing twice changes nothing. A store that does
not answer neither stops nor slows a training; what it has not taken by the end is published later by `raypixel publish`.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

from raypixel.runs.background import Background
from raypixel.runs.events import Event, Status, read_events
from raypixel.runs.run import Run
from raypixel.runs.tracking.record import Record, log_file, open_record, record_of, set_tags
from raypixel.runs.tracking.store import open_store, reason

MAX_METRICS = 1000  # MLflow's limit of one log_batch
SECONDS_BETWEEN = 1.0
SECONDS_BETWEEN_FETCHES = 10.0
MAX_REFUSALS = 4  # of one part by a store that answers
SECONDS_TO_SAY = 10.0  # when `close` says what it waits for

_MLFLOW_STATUS = {"done": "FINISHED", "failed": "FAILED", "stopped": "KILLED", "killed": "KILLED"}


class _RefusedError(Exception):
    """The store answers and refuses; it may take it later."""


@dataclass(eq=False)
class Publication:
    """How far one folder is published.

    Attributes:
        read: Reads what the folder says beside its events.
        folder: Where its events are, None if it has none.
        fetch: Brings the events on this machine up to date.
        parent: Of a trial, its sweep's.
        run_id: MLflow's id, None until the store has given one.
        status: How it ended, None while it goes on.
        error: What went wrong at the end.
    """

    read: Callable[[], Record]
    folder: Path | None = None
    fetch: Callable[[], None] = lambda: None
    parent: "Publication | None" = None
    run_id: str | None = None
    status: Status | None = None
    error: str = ""
    position: int = 0
    fetched_at: float = -math.inf
    files_sent: set[Path] = field(default_factory=set)
    refusals: Counter[str] = field(default_factory=Counter)
    is_over: bool = False


class Publisher:
    """Publish folders to an MLflow experiment."""

    def __init__(
        self,
        *,
        uri: str | None = None,
        experiment: str | None = None,
        warn: Callable[[str], None],
    ) -> None:
        """Open the store and start the thread.

        Args:
            uri: See `open_store`.
            experiment: See `open_store`.
            warn: Shows a line to the user; called from the thread too.

        Raises:
            TrackingError: The store cannot be opened.
        """
        self.store = open_store(uri=uri, experiment=experiment)
        self._warn = warn
        self._warned: set[str] = set()
        self._publications: list[Publication] = []
        self._is_closing = False
        self._is_closed = False
        self._publishing = Background(
            self._publish_all,
            name="mlflow",
            every=SECONDS_BETWEEN,
            rest=lambda: SECONDS_BETWEEN,  # points gather, and are written together
            errors=(Exception,),  # a store, its driver or a plugin may raise anything
            failed=self._complain,
        )

    def follow(
        self, run: Run, *, name: str | None = None, parent: Publication | None = None
    ) -> Publication:
        """Publish a run that has begun, from its first event to its end."""
        return self._add(
            Publication(lambda: record_of(run, name), run.folder, run.fetch_events, parent)
        )

    def follow_sweep(self, read: Callable[[], Record]) -> Publication:
        """Publish a sweep: what its folder says now, and again when it ends."""
        return self._add(Publication(read))

    def finish(self, publication: Publication, status: Status) -> None:
        """Say how one ended that has no event for it."""
        publication.status = status

    def flush(self, seconds: float) -> bool:
        """Publish what there is so far; return whether it was done before the store took nothing for some seconds."""
        return self._publishing.flush(seconds)

    def close(self, seconds: float = 60.0) -> bool:
        """Publish what is left, say what could not be, and return whether everything was.

        A store that is slow is waited for, one that has taken nothing for some time is not.
        """
        if self._is_closed:
            return not self._publications
        self._is_closing = True
        is_done = self._publishing.flush(min(seconds, SECONDS_TO_SAY))
        if not is_done and seconds > SECONDS_TO_SAY:
            self._warn_once("slow", "is slow, waiting for it")
            is_done = self._publishing.flush(seconds)
        self._publishing.stop()
        self._is_closed = True
        left = [each for each in self._publications if not each.is_over]
        if not is_done and left:
            folders = sorted({str(each.folder) for each in left if each.folder is not None})
            catch_up = f"`raypixel publish {folders[0]}`" if folders else "`raypixel publish`"
            runs = "1 run is" if len(left) == 1 else f"{len(left)} runs are"
            self._warn(f"MLflow at {self.store.shown}: {runs} not all there, {catch_up} catches up")
        return is_done

    def describe(self) -> str:
        """Return where the experiment is and the command or address that opens it."""
        return self.store.describe()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _add(self, publication: Publication) -> Publication:
        assert not self._is_closed
        self._publications.append(publication)
        self._publishing.ask()
        return publication

    def _publish_all(self) -> None:
        refused: _RefusedError | None = None
        for publication in list(self._publications):
            try:
                self._publish(publication)
            except _RefusedError as error:
                refused = error
            if publication.is_over:
                self._publications.remove(publication)
        if refused is not None:
            raise refused

    def _publish(self, each: Publication) -> None:
        if each.run_id is None:
            if each.parent is not None and each.parent.run_id is None:
                each.is_over = each.parent.is_over  # the store does not take its sweep
                return
            self._part(each, "open", lambda: self._open(each))
            if each.run_id is None:
                each.is_over = True
                return
        if each.folder is not None:
            self._publish_events(each, each.folder)
        if each.status is not None:
            self._finish(each, each.status)

    def _open(self, each: Publication) -> None:
        parent_id = each.parent.run_id if each.parent else None
        each.run_id = open_record(self.store, each.read(), parent_id)
        self._publishing.note_progress()

    def _publish_events(self, each: Publication, folder: Path) -> None:
        now = time.monotonic()
        if self._is_closing or now - each.fetched_at >= SECONDS_BETWEEN_FETCHES:
            each.fetched_at = now
            each.fetch()
        events, position = read_events(folder, each.position)
        if not events:
            return
        points = [point for event in events for point in _points(event)]
        for start in range(0, len(points), MAX_METRICS):
            part = points[start : start + MAX_METRICS]
            self._part(each, f"metrics {position} {start}", partial(self._log, each, part))
        each.position = position
        last = events[-1]
        each.status = last.status if last.kind == "end" else None
        each.error = last.text

    def _log(self, each: Publication, points: list[tuple[str, float, int, int]]) -> None:
        from mlflow.entities import Metric

        self.store.client.log_batch(each.run_id, [Metric(*point) for point in points])
        self._publishing.note_progress()

    def _finish(self, each: Publication, status: Status) -> None:
        client, run_id, record = self.store.client, each.run_id, each.read()
        assert run_id is not None
        tags = {**record.tags, "raypixel.status": status}
        if each.error:
            tags[f"raypixel.{'stopped_by' if status == 'stopped' else 'error'}"] = each.error
        self._part(each, "tags", lambda: set_tags(client, run_id, tags))
        for path, folder in () if status == "failed" else record.files:
            if path not in each.files_sent:
                self._part(each, str(path), partial(log_file, client, run_id, path, folder))
                each.files_sent.add(path)
                self._publishing.note_progress()
        end = _MLFLOW_STATUS[status]
        self._part(each, "end", lambda: client.set_terminated(run_id, end))
        each.is_over = True

    def _part(self, each: Publication, name: str, act: Callable[[], object]) -> None:
        """Do one part of it; what the store refuses again and again, although it answers, is left out and told."""
        try:
            act()
        except Exception as error:  # a store, its driver or a plugin may raise anything
            if not self.store.answers():
                raise
            each.refusals[name] += 1
            if each.refusals[name] < MAX_REFUSALS:
                raise _RefusedError from error
            self._warn_once("refused", f"does not take a part of a run ({reason(error)})")

    def _complain(self, error: Exception) -> None:
        if not isinstance(error, _RefusedError):
            self._warn_once("lost", f"does not answer ({reason(error)}); going on, trying again")

    def _warn_once(self, kind: str, text: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            self._warn(f"MLflow at {self.store.shown} {text}")


@contextmanager
def opening_publisher(warn: Callable[[str], None]) -> Iterator[Callable[[], Publisher]]:
    """Open it in a thread, for who has something to do meanwhile: the import of MLflow alone takes seconds."""
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(Publisher, warn=warn)
        try:
            yield opening.result
        finally:
            if opening.exception() is None:
                opening.result().close()


def _points(event: Event) -> list[tuple[str, float, int, int]]:
    """Return (name, value, time in ms, step) of an event's numbers; one that is not finite is stored as NaN."""
    if not event.metrics:
        return []
    metrics: dict[str, Any] = dict(event.metrics)
    if event.kind != "end":
        metrics["epoch"] = event.epoch
    now = int(event.time * 1000)
    # MLflow stores an infinity as 1.8e308, which no chart can show
    finite = {k: float(v) if math.isfinite(v) else math.nan for k, v in metrics.items()}
    return [(name, value, now, event.step) for name, value in finite.items()]
