"""The engine: many requests' images are made together in slots, each at its own position.

A loop on the caller's event loop hands steps to one stepper thread. Between two steps images join free slots in fair order,
complete and cancelled ones leave, and images to be scored take a turn. All state but the slots themselves belongs to
the event loop: methods are called from there.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from raypixel.errors import ServingError
from raypixel.models import PixelModel
from raypixel.sampling import Image
from raypixel.serving.job import (
    Finished,
    Job,
    JobCancelled,
    NotAccepting,
    QueueFull,
    WaitingImages,
    WrittenRows,
    check_image,
)
from raypixel.serving.stats import EngineStats
from raypixel.serving.stepper import StepInput, Stepper, StepResult

__all__ = [
    "Engine", "EngineStats", "Finished", "Image", "Job", "JobCancelled", "NotAccepting", "QueueFull", "WrittenRows",
]  # fmt: skip

T = TypeVar("T")

# a step's span: short where someone looks on
QUIET_S, WATCHED_S = 0.05, 0.02
# failed steps in a row after which the engine calls itself unhealthy
MAX_FAILURES = 3


@dataclass(eq=False)
class _Scoring:
    """Images to be scored, and what is known of them so far."""

    x: Tensor
    class_labels: Tensor | None
    result: asyncio.Future[Tensor]
    parts: list[Tensor] = field(default_factory=list)
    num_done: int = 0


class Engine:
    """One model that is served.

    Attributes:
        stats: Counters and gauges, kept up to date.
    """

    def __init__(
        self, model: PixelModel, *, num_slots: int = 64, max_queued_images: int = 2048
    ) -> None:
        """Describe an engine; `start` makes it.

        Args:
            model: A registered model, on its device.
            num_slots: Images that are made at a time.
            max_queued_images: Images that may wait for a slot, and images that may wait to be scored.
        """
        self._model = model
        self._image_shape = model.image_shape
        self._max_queued = max_queued_images
        self._waiting = WaitingImages()
        self._places: dict[int, tuple[Job, int]] = {}
        self._free = list(range(num_slots))[::-1]
        self._released: list[int] = []
        self._scorings: list[_Scoring] = []
        self._news = asyncio.Event()
        self._is_accepting = False
        self._task: asyncio.Task[None] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._stepper: Stepper | None = None
        self._num_failures = 0
        self._last_error: Exception | None = None
        self.stats = EngineStats(num_slots, math.prod(self._image_shape))

    async def start(self) -> None:
        """Make the slots, compile, and accept work."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="raypixel-engine")
        self._stepper = await self._in_thread(lambda: Stepper(self._model, self.stats.num_slots))
        self._task = asyncio.create_task(self._run(), name="raypixel-engine")
        self._is_accepting = True

    async def close(self, *, drain: bool = True) -> None:
        """Refuse new work, and end.

        Args:
            drain: Finish what was accepted; otherwise it is cancelled.
        """
        self._is_accepting = False
        if not drain:
            self._end_all(JobCancelled("the job must be let finish, got a closing engine"))
        self._news.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        if self._thread is not None:
            self._thread.shutdown(wait=True)

    def submit(self, images: Sequence[Image], *, streams_rows: bool = False) -> Job:
        """Let images wait for slots.

        Args:
            images: At most `max_queued_images`.
            streams_rows: Report rows as they are written, not only whole images.

        Raises:
            ValueError: An image does not fit the model, or there are none or too many.
            QueueFull: There is no room for them now.
            NotAccepting: The engine has not started, closes, or has died.
        """
        self._check_accepting()
        if not 0 < len(images) <= self._max_queued:
            raise ValueError(f"images must be 1 to {self._max_queued}, got {len(images)}")
        for image in images:
            check_image(image, self._model)
        excess = len(self._waiting) + len(images) - self._max_queued
        if excess > 0:
            raise QueueFull(self.stats.seconds_for(excess))
        job = Job(images, self._image_shape, streams_rows=streams_rows, on_cancel=self._cancel)
        self._waiting.add(job)
        self._count_waiting()
        self._news.set()
        return job

    async def score(self, x: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Return how much each sub-pixel surprises the model, in nats, (N, C, H, W), a few images between two steps.

        Args:
            x: Levels, (N, C, H, W).
            class_labels: (N,) int64 for a class-conditional model.

        Raises:
            QueueFull: Too many images wait to be scored.
            NotAccepting: The engine has not started, closes, or has died.
        """
        self._check_accepting()
        num_waiting = sum(len(each.x) - each.num_done for each in self._scorings)
        if num_waiting + len(x) > self._max_queued and num_waiting:
            raise QueueFull(5.0)
        if not len(x):
            return torch.zeros(x.shape)
        scoring = _Scoring(x, class_labels, asyncio.get_running_loop().create_future())
        self._scorings.append(scoring)
        self._news.set()
        return await scoring.result

    def check_health(self) -> None:
        """Raise if the engine no longer works.

        Raises:
            ServingError: Its task has died, or its last steps have all failed.
        """
        if self._task is not None and self._task.done() and self._is_accepting:
            error = None if self._task.cancelled() else self._task.exception()
            raise ServingError(f"the engine must run, got {error!r}") from error
        if self._num_failures >= MAX_FAILURES:
            raise ServingError(
                f"the engine must make images, got {self._num_failures} failed steps: {self._last_error!r}"
            ) from self._last_error

    def _check_accepting(self) -> None:
        if not self._is_accepting:
            raise NotAccepting(
                "the engine must accept work, got one that has not started or closes"
            )
        if self._task is None or self._task.done():
            raise NotAccepting("the engine must run, got one that has died")

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def _run(self) -> None:
        try:
            while True:
                if self._waiting or self._places or self._released:
                    await self._step()
                if self._scorings:
                    await self._score_some()
                if self._waiting or self._places or self._released or self._scorings:
                    continue
                if not self._is_accepting:
                    return
                self._news.clear()
                await self._news.wait()
        except BaseException as error:
            reason = NotAccepting("the engine must run, got one that was stopped")
            self._end_all(error if isinstance(error, Exception) else reason)
            raise

    async def _step(self) -> None:
        assert self._stepper is not None
        released, self._released = self._released, []
        self._free += released
        admitted = {}
        while self._free and self._waiting:
            job, number = self._waiting.next()
            slot = self._free.pop()
            self._places[slot] = (job, number)
            admitted[slot] = job.images[number]
            if (waited := job.begin()) is not None:
                self.stats.queue_waits.add(waited)
        self._count_waiting()
        streamed = frozenset(slot for slot, (job, _) in self._places.items() if job.streams_rows)
        span = WATCHED_S if streamed else QUIET_S
        step = StepInput(released, admitted, streamed, span, is_crowded=bool(self._waiting))
        stepper, started = self._stepper, time.perf_counter()
        result = await self._in_thread(lambda: stepper.step(step))
        self._tell(result)
        self.stats.note_step(result.gained, result.written, time.perf_counter() - started)
        self._count_waiting()

    def _tell(self, result: StepResult) -> None:
        """Pass an result on; slots that were cancelled meanwhile are in no place any more."""
        for slot, row, levels in result.rows:
            if place := self._places.get(slot):
                place[0].tell(WrittenRows(place[1], row, levels))
        for slot, levels in result.finished:
            if place := self._leave(slot):
                self.stats.images += 1
                place[0].tell(Finished(place[1], levels))
                self.stats.jobs_finished += place[0].is_ended
        for slot, error in result.failed:
            if place := self._leave(slot):
                self._end(place[0], error)
        if result.error is None:
            self._num_failures = 0 if result.gained else self._num_failures
            return
        self._num_failures, self._last_error = self._num_failures + 1, result.error
        for job in {id(job): job for job, _ in self._places.values()}.values():
            self._end(job, result.error)

    def _leave(self, slot: int) -> tuple[Job, int] | None:
        """Empty a place; a slot that was cancelled during the step is let go of with the next one."""
        place = self._places.pop(slot, None)
        if place is not None:
            self._free.append(slot)
        return place

    async def _score_some(self) -> None:
        assert self._stepper is not None
        stepper, scoring = self._stepper, self._scorings.pop(0)
        if scoring.result.done():  # the caller has gone
            return
        rest = slice(scoring.num_done, None)
        labels = None if scoring.class_labels is None else scoring.class_labels[rest]
        try:
            nats = await self._in_thread(
                lambda: stepper.score(scoring.x[rest], labels, span_s=QUIET_S)
            )
        except Exception as error:
            # whatever it is, it belongs to this caller, and the engine goes on
            if not scoring.result.done():
                scoring.result.set_exception(error)
            return
        scoring.parts.append(nats)
        scoring.num_done += len(nats)
        if scoring.result.done():
            return
        if scoring.num_done < len(scoring.x):
            self._scorings.append(scoring)
        else:
            scoring.result.set_result(torch.cat(scoring.parts))

    def _cancel(self, job: Job) -> None:
        self.stats.jobs_cancelled += 1
        self._drop(job, JobCancelled("the job must be let finish, got a call of cancel"))

    def _end(self, job: Job, error: Exception) -> None:
        self.stats.jobs_failed += 1
        self._drop(job, error)

    def _drop(self, job: Job, error: Exception) -> None:
        """End a job and give back what it holds."""
        self._waiting.remove(job)
        for slot in [slot for slot, (other, _) in self._places.items() if other is job]:
            del self._places[slot]
            self._released.append(slot)
        job.end(error)
        self._count_waiting()
        self._news.set()

    def _end_all(self, error: Exception) -> None:
        jobs = [*self._waiting.jobs(), *(job for job, _ in self._places.values())]
        for job in {id(job): job for job in jobs}.values():
            self._end(job, error)
        for scoring in self._scorings:
            if not scoring.result.done():
                scoring.result.set_exception(error)
        self._scorings.clear()

    def _count_waiting(self) -> None:
        self.stats.active_slots = len(self._places)
        self.stats.queued_images = len(self._waiting)
