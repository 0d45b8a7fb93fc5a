"""Word to a worker that it will soon be ended, so that it saves a checkpoint at once.

Two ways lead here. Ray Train ends all workers when their number changes, when another one died, and on Ctrl-C: it calls
`EndOfWorker` in each worker's main thread and gives it five seconds. A machine that is taken away (a spot instance) is
announced some time before: `watch_preemption` asks for that. The loop runs in a thread of its own and looks at its `Notice`
after each step; only rank 0 saves, so only rank 0 needs to look.
"""

import threading
import time
from contextlib import suppress
from functools import cache
from typing import Any

from raypixel.train import ray_private

SECONDS_TO_SAVE = 4.0
"""How long a worker that is ended waits for its checkpoint; Ray Train waits for five seconds."""
SECONDS_BETWEEN_SAVES = 5.0
"""Between the checkpoints of a worker that was told, until it is ended."""
SECONDS_BETWEEN_QUESTIONS = 1.0


class Notice:
    """What a training was told, and what it has saved since."""

    def __init__(self) -> None:
        self.was_given = threading.Event()
        self._is_safe = threading.Event()  # saved since, or over
        self.is_over = False
        self._saved_at = 0.0

    def give(self) -> None:
        """Tell the training that it will be ended: it saves after its current step."""
        if not self.is_over:
            self._is_safe.clear()
        self.was_given.set()

    def is_save_due(self) -> bool:
        """Return whether to save now: at once when told, then every few seconds."""
        if not self.was_given.is_set():
            return False
        is_old = time.monotonic() - self._saved_at >= SECONDS_BETWEEN_SAVES
        return is_old or not self._is_safe.is_set()

    def note_saved(self) -> None:
        """Say that all steps so far are in a complete checkpoint."""
        self._saved_at = time.monotonic()
        self._is_safe.set()

    def note_over(self) -> None:
        """Say that the training has ended, well or not: nothing will be saved any more."""
        self.is_over = True
        self._is_safe.set()

    def wait(self, seconds: float) -> bool:
        """Wait until the training has saved or is over; return whether it has."""
        return self._is_safe.wait(seconds)


@cache
def notice_of(run: str) -> Notice:
    """Return this process's notice of a run, the same in all its threads."""
    del run
    return Notice()


def end_of_worker(run: str) -> Any:
    """Make the Ray Train callback that is called in each worker before it is ended; its base class is Ray's."""

    class EndOfWorker(ray_private.worker_callback()):  # type: ignore[misc]
        def before_worker_shutdown(self) -> None:
            import ray.train

            notice = notice_of(run)
            notice.give()
            if ray.train.get_context().get_world_rank() == 0:
                notice.wait(SECONDS_TO_SAVE)

    return EndOfWorker()


def watch_preemption(notice: Notice) -> threading.Thread | None:
    """Give notice when a machine with one of the workers is to be taken away.

    Ray's question is a barrier of all workers: on a thread of its own in each, it costs the steps nothing.

    Returns:
        The thread that asks; None where this Ray cannot tell.
    """
    import ray.train
    from ray.exceptions import RayError

    get_info = getattr(ray.train, "get_preemption_info", None)
    if get_info is None:
        return None

    def ask() -> None:
        while not notice.is_over:
            with suppress(
                RayError
            ):  # a slow answer is asked for again; where workers are ended, the process ends
                if get_info() is not None:
                    notice.give()
                    return
            time.sleep(SECONDS_BETWEEN_QUESTIONS)

    thread = threading.Thread(target=ask, daemon=True, name="watch-preemption")
    thread.start()
    return thread
