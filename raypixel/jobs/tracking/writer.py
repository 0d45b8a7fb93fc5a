"""The queue of what is to be written, and the thread that writes it."""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from raypixel.jobs.tracking.store import reason

MAX_METRICS = 1000  # MLflow's limit of one log_batch

_GATHER_S = 1.0  # how long metrics gather before they are written together
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 60.0
_MAX_REFUSALS = 4  # of one entry by a store that answers
_SECONDS_TO_SAY = 10.0  # when `close` says what it waits for


class Run(Protocol):
    """What the writer knows of a run.

    Attributes:
        run_id: MLflow's id, None until an entry that opens the run has set it.
    """

    run_id: str | None


@dataclass(frozen=True)
class Entry:
    """One thing to write: a call, or points of metrics, which are written together.

    Attributes:
        run: The run it belongs to.
        call: Takes the client and the run's id; None for metrics.
        points: (name, value, time in ms, step) of each metric.
        is_vital: Never dropped, since the rest of the run is worth little without it.
        is_opening: It gives the run its id, and is the only one that needs none.
    """

    run: Run
    call: Callable[[Any, str], None] | None
    points: tuple[tuple[str, float, int, int], ...] = ()
    is_vital: bool = False
    is_opening: bool = False

    @property
    def is_orphan(self) -> bool:
        """Whether the store did not take the run itself, which was written before."""
        return self.run.run_id is None and not self.is_opening


class Writer:
    """A queue of entries and the thread that writes them, in order within each run."""

    def __init__(
        self,
        client: Any,
        *,
        probe: Callable[[], object],
        warn: Callable[[str], None],
        store: str,
        max_queued: int,
    ) -> None:
        """Start the thread.

        Args:
            client: MLflow's client of the store.
            probe: Asks the store for something that it has; raises where the store does not answer.
            warn: Shows a line to the user; called from the thread too.
            store: What to call the store in a warning.
            max_queued: Entries that may wait.
        """
        self._client = client
        self._probe = probe
        self._warn = warn
        self._store = store
        self._max_queued = max_queued
        self._changed = threading.Condition()  # guards everything below
        self._queue: deque[Entry] = deque()
        self._num_in_flight = 0
        self._num_lost = 0
        self._num_written = 0
        self._num_waiting = 0  # threads in `flush` or `close`: write now, do not gather
        self._is_closed = False
        self._warned: set[str] = set()
        self._is_abandoned = threading.Event()  # what is not written yet never will be
        self._thread = threading.Thread(target=self._work, name="raypixel-mlflow", daemon=True)
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """Queue an entry; beyond the bound the oldest that is not vital is dropped."""
        with self._changed:
            if self._is_closed:
                raise ValueError("the tracker must be open, got a call after close")
            self._queue.append(entry)
            if len(self._queue) > self._max_queued:
                self._drop_oldest()
            if len(self._queue) == 1:  # otherwise the thread is awake, or gathers
                self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until the queue is written or given up; return whether it is."""
        with self._changed:
            self._num_waiting += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(
                    lambda: not self._queue and not self._num_in_flight, timeout_s
                )
            finally:
                self._num_waiting -= 1

    def close(self, timeout_s: float) -> int:
        """Take nothing more, write what is left, warn if something was lost, and return the number of entries lost.

        A store that is slow is waited for, one that has taken nothing for `timeout_s` is not.
        """
        with self._changed:
            is_first = not self._is_closed
            self._is_closed = True
        if is_first:
            is_written = self._flush_patiently(timeout_s)
            self._is_abandoned.set()
            with self._changed:
                self._num_lost += self._num_in_flight + len(self._queue)
                self._queue.clear()
                self._changed.notify_all()
            if is_written:
                self._thread.join(timeout=1.0)
            if self._num_lost:
                entries = "1 entry was" if self._num_lost == 1 else f"{self._num_lost} entries were"
                self._warn(f"MLflow at {self._store}: {entries} not written")
        return self._num_lost

    def _flush_patiently(self, timeout_s: float) -> bool:
        """Wait until the queue is written, or nothing of it was for a time; return whether it is."""
        began_at = written_at = time.monotonic()
        num_written = self._num_written
        while not self.flush(min(timeout_s, _SECONDS_TO_SAY)):
            now = time.monotonic()
            if self._num_written > num_written:
                num_written, written_at = self._num_written, now
            elif now - written_at >= timeout_s:
                return False
            if now - began_at >= _SECONDS_TO_SAY and written_at > began_at:
                text = f"is slow: {len(self._queue)} entries are yet to be written"
                self._warn_once("slow", text)
        return True

    def _drop_oldest(self) -> None:
        for index, entry in enumerate(self._queue):
            if not entry.is_vital:
                del self._queue[index]
                self._num_lost += 1
                return

    def _work(self) -> None:
        while entries := self._take():
            is_written = self._write(entries)
            with self._changed:
                self._num_in_flight = 0
                self._num_written += is_written
                self._changed.notify_all()

    def _take(self) -> list[Entry]:
        """Wait for entries, and return those to write together; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._is_abandoned.is_set())
            self._changed.wait_for(lambda: self._num_waiting or not self._queue, _GATHER_S)
            if not self._queue:
                return []
            first = self._queue.popleft()
            entries = [first] if first.call else [first, *self._take_metrics(first)]
            self._num_in_flight = len(entries)
            return entries

    def _take_metrics(self, first: Entry) -> list[Entry]:
        """Take the metrics of a run that come before any other entry of it."""
        taken: list[Entry] = []
        left: deque[Entry] = deque()
        num_points, is_open = len(first.points), True
        for entry in self._queue:
            if is_open and entry.run is first.run:
                num_points += len(entry.points)
                is_open = entry.call is None and num_points <= MAX_METRICS
                (taken if is_open else left).append(entry)
            else:
                left.append(entry)
        self._queue = left
        return taken

    def _write(self, entries: list[Entry]) -> bool:
        """Write entries, again and again; return whether they were taken."""
        wait_s, num_refusals = _FIRST_WAIT_S, 0
        while (error := self._try(entries)) is not None:
            if self._is_answering():
                num_refusals += 1
                if num_refusals == _MAX_REFUSALS or entries[0].is_orphan:
                    self._warn_once("refused", f"does not take an entry ({reason(error)})")
                    with self._changed:
                        self._num_lost += len(entries)
                    return False
            else:
                text = f"does not answer ({reason(error)}); going on, trying again"
                self._warn_once("lost", text)
            if self._is_over_after(wait_s):
                return False  # `close` has counted these
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        return True

    def _try(self, entries: list[Entry]) -> Exception | None:
        from mlflow.entities import Metric

        first = entries[0]
        run_id = first.run.run_id or ""  # only an opening succeeds without
        try:
            if first.call is not None:
                first.call(self._client, run_id)
            else:
                points = itertools.chain.from_iterable(entry.points for entry in entries)
                self._client.log_batch(run_id, [Metric(*point) for point in points])
        except Exception as error:  # a store, its driver or a plugin may raise anything
            return error
        return None

    def _is_answering(self) -> bool:
        try:
            self._probe()
        except Exception:  # as above
            return False
        return True

    def _is_over_after(self, wait_s: float) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._num_waiting, wait_s)
        return self._is_abandoned.wait(_FIRST_WAIT_S)

    def _warn_once(self, kind: str, text: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            self._warn(f"MLflow at {self._store} {text}")
