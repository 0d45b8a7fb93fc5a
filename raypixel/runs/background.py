"""A thread that brings something up to date behind the work: it retries, and is flushed at the end.

Everything that must not hold up a training is one of these: putting its state into storage, fetching the events of a run that
trains elsewhere, keeping a lease, publishing to MLflow. What is done is always "the newest state", so calls that come while one
is under way are met together by the next one, and a failed one is simply done again, ever less often.
"""

import threading
import time
from collections.abc import Callable

from raypixel.errors import StorageError

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0


class Background:
    """A thread around a function that may fail and may be repeated."""

    def __init__(
        self,
        act: Callable[[], object],
        *,
        name: str,
        every: float | None = None,
        rest: Callable[[], float] = lambda: 0.0,
        errors: tuple[type[Exception], ...] = (StorageError, OSError),
        failed: Callable[[Exception], object] = str,
        mended: Callable[[], object] = lambda: None,
    ) -> None:
        """Start the thread.

        Args:
            act: Brings up to date; called on the thread only.
            name: Of the thread.
            every: Seconds after which it acts unasked; None waits to be asked.
            rest: Returns how many seconds to gather what is asked after the last act; nobody who flushes waits for it.
            errors: What is tried again.
            failed: Told of the first error of a row of them.
            mended: Called when it succeeds again.
        """
        self.act = act
        self.every = every
        self.rest = rest
        self.errors = errors
        self.failed = failed
        self.mended = mended
        self.problem: Exception | None = None
        self._changed = threading.Condition()  # guards everything below
        self._asked = self._done = 0
        self._num_waiting = 0  # threads in `flush`
        self._acted_at = self._progress_at = time.monotonic()
        self._is_over = False
        self._thread = threading.Thread(target=self._run, daemon=True, name=name)
        self._thread.start()

    def ask(self) -> None:
        """Have it act, at some time after now."""
        with self._changed:
            self._asked += 1
            self._changed.notify_all()

    def note_progress(self) -> None:
        """Say, from within a long act, that it gets on: who flushes is more patient."""
        self._progress_at = time.monotonic()

    def flush(self, seconds: float) -> bool:
        """Act once more and wait for it, or until it got nowhere for some seconds; return whether it succeeded."""
        with self._changed:
            self._asked += 1
            wanted, began_at = self._asked, time.monotonic()
            self._num_waiting += 1
            self._changed.notify_all()
            try:
                while self._done < wanted:
                    left = max(began_at, self._progress_at) + seconds - time.monotonic()
                    if left <= 0 or not self._thread.is_alive():
                        return False
                    self._changed.wait(timeout=left)
                return True
            finally:
                self._num_waiting -= 1

    def close(self, seconds: float) -> bool:
        """Flush and end; return whether everything was done."""
        is_done = self.flush(seconds)
        self.stop()
        return is_done

    def stop(self) -> None:
        """End without acting again."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        pause = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._is_over or self._asked > self._done, self._seconds_to_next()
                )
                gathering = self._acted_at + self.rest() - time.monotonic()
                self._changed.wait_for(lambda: self._is_over or self._num_waiting, gathering)
                if self._is_over:
                    return
                asked = self._asked
            try:
                self.act()
            except self.errors as error:
                is_first, self.problem = self.problem is None, error
                if is_first:
                    self.failed(error)
                pause = min(LONGEST_PAUSE, 2 * pause or FIRST_PAUSE)
                with self._changed:  # who flushes does not wait for the longer pauses
                    self._changed.wait_for(lambda: self._is_over, FIRST_PAUSE)
                    left = pause - FIRST_PAUSE
                    self._changed.wait_for(lambda: self._is_over or self._num_waiting, left)
                continue
            if self.problem is not None:
                self.problem, pause = None, 0.0
                self.mended()
            with self._changed:
                self._done, self._acted_at = asked, time.monotonic()
                self._changed.notify_all()

    def _seconds_to_next(self) -> float | None:
        if self.every is None:
            return None
        return max(0.0, self._acted_at + self.every - time.monotonic())
