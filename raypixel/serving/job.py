"""A job: the images that one request asked for, how its caller hears of them, and which image is next among several jobs."""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raypixel.errors import ServingError
from raypixel.models import PixelModel
from raypixel.sampling import Image


class QueueFull(ServingError):
    """Report that no more images can wait.

    Attributes:
        retry_after_s: When there should be room, in seconds.
    """

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(
            f"the queue must have room, got a full one: retry in {retry_after_s:.0f} s"
        )
        self.retry_after_s = retry_after_s


class NotAccepting(ServingError):
    """Report that the engine has not started, or closes."""


class JobCancelled(ServingError):
    """Report to those who wait for a job that it was cancelled."""


@dataclass(frozen=True)
class WrittenRows:
    """Rows of an image that are complete.

    Attributes:
        image: Number of the image in its job.
        row: The first of the rows.
        levels: (C, num_rows, W), uint8.
    """

    image: int
    row: int
    levels: Tensor


@dataclass(frozen=True)
class Finished:
    """An image that is complete.

    Attributes:
        image: Number of the image in its job.
        levels: (C, H, W), uint8.
    """

    image: int
    levels: Tensor


def check_image(image: Image, model: PixelModel) -> None:
    """Check that an image fits a model.

    Raises:
        ValueError: Its label, temperature, levels or mask do not.
    """
    num_classes, label, shape = model.num_classes, image.class_label, model.image_shape
    if num_classes and (label is None or not 0 <= label < num_classes):
        raise ValueError(f"class_label must be 0 to {num_classes - 1}, got {label}")
    if not num_classes and label is not None:
        raise ValueError(
            f"class_label must be None, the model is not class-conditional, got {label}"
        )
    if not 0 < image.temperature < math.inf:
        raise ValueError(f"temperature must be positive, got {image.temperature}")
    if (image.x is None) != (image.observed is None):
        raise ValueError("x and observed must be given together, got one of them")
    for name, value in (("x", image.x), ("observed", image.observed)):
        if value is not None and tuple(value.shape) != shape:
            raise ValueError(f"{name} must be {shape}, got {tuple(value.shape)}")
    if image.x is not None and not 0 <= int(image.x.min()) <= int(image.x.max()) < model.num_levels:
        raise ValueError(
            f"x must hold levels in [0, {model.num_levels - 1}], got {int(image.x.max())}"
        )


class Job:
    """Images that are made for one caller. It belongs to the event loop of its engine.

    Attributes:
        images: What is to be made.
        streams_rows: Whether rows are reported as they are written.
        queue_wait_s: How long the first image waited for a slot; None while it waits.
    """

    def __init__(
        self,
        images: Sequence[Image],
        image_shape: tuple[int, int, int],
        *,
        streams_rows: bool,
        on_cancel: Callable[["Job"], None],
    ) -> None:
        self.images = tuple(images)
        self.streams_rows = streams_rows
        self.queue_wait_s: float | None = None
        self._on_cancel = on_cancel
        self._levels = torch.zeros(len(images), *image_shape, dtype=torch.uint8)
        self._num_missing = len(images)
        self._submitted = time.monotonic()
        self._events: asyncio.Queue[WrittenRows | Finished | None] = asyncio.Queue()
        self._ended = asyncio.Event()
        self._error: Exception | None = None

    @property
    def is_ended(self) -> bool:
        """Whether all images are there, or none will come any more."""
        return self._ended.is_set()

    async def events(self) -> AsyncIterator[WrittenRows | Finished]:
        """Yield rows and images as they come; for one reader.

        Raises:
            JobCancelled: `cancel` was called.
            Exception: What made the job fail.
        """
        while (event := await self._events.get()) is not None:
            yield event
        if self._error:
            raise self._error

    async def result(self) -> Tensor:
        """Wait for all images; return them, (N, C, H, W), uint8.

        Raises:
            JobCancelled: `cancel` was called.
            Exception: What made the job fail.
        """
        await self._ended.wait()
        if self._error:
            raise self._error
        return self._levels

    def cancel(self) -> None:
        """Give back the slots and the places in the queue at once; nothing happens to a job that has ended."""
        if not self.is_ended:
            self._on_cancel(self)

    def begin(self) -> float | None:
        """Note that an image has got its slot; return how long the job waited if it is the first, in seconds."""
        if self.queue_wait_s is not None:
            return None
        self.queue_wait_s = time.monotonic() - self._submitted
        return self.queue_wait_s

    def tell(self, event: WrittenRows | Finished) -> None:
        """Report an event to the reader."""
        self._events.put_nowait(event)
        if isinstance(event, Finished):
            self._levels[event.image] = event.levels
            self._num_missing -= 1
            if not self._num_missing:
                self.end(None)

    def end(self, error: Exception | None) -> None:
        """End, well or not; the first end counts."""
        if self.is_ended:
            return
        self._error = error
        self._ended.set()
        self._events.put_nowait(None)


class WaitingImages:
    """Images that wait for slots: jobs take turns, one image each, so that a large job does not keep a small one waiting."""

    def __init__(self) -> None:
        self._jobs: deque[tuple[Job, deque[int]]] = deque()
        self._num_images = 0

    def __len__(self) -> int:
        return self._num_images

    def add(self, job: Job) -> None:
        """Let all images of a job wait."""
        self._jobs.append((job, deque(range(len(job.images)))))
        self._num_images += len(job.images)

    def next(self) -> tuple[Job, int]:
        """Take the image whose turn it is: its job and its number there."""
        job, waiting = self._jobs.popleft()
        image = waiting.popleft()
        self._num_images -= 1
        if waiting:
            self._jobs.append((job, waiting))
        return job, image

    def remove(self, job: Job) -> None:
        """Forget what waits of a job."""
        for each in self._jobs:
            if each[0] is job:
                self._num_images -= len(each[1])
                self._jobs.remove(each)
                return

    def jobs(self) -> list[Job]:
        """Return the jobs of which an image waits."""
        return [job for job, _ in self._jobs]
