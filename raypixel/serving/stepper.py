"""What runs in the engine's one thread: a step of the slots, and the scoring of a few images.

A step lets go of some slots, admits images, and advances all by some pixels: as many as fit a span of time, by the pace
of the steps before. In PyTorch the observed rows at the top of completions are consumed at once, by groups of as many rows;
compiled code walks over them image by image, so that there an image's numbers do not depend on who else comes.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raypixel.evaluation import nats_map
from raypixel.models import PixelModel
from raypixel.nn.plan import Stage
from raypixel.sampling import CachedSampler, Image


@dataclass(frozen=True)
class StepInput:
    """What a step is to do.

    Attributes:
        released: Slots to empty first.
        admitted: Images to put into empty slots, by slot.
        streamed: Slots whose rows are reported.
        span_s: About how long to advance, in seconds.
        is_crowded: Images wait for slots: end the step when the first image is complete, if that is not too soon.
    """

    released: Sequence[int]
    admitted: dict[int, Image]
    streamed: frozenset[int]
    span_s: float
    is_crowded: bool


@dataclass
class StepResult:
    """What a step did.

    Attributes:
        rows: Slot, first row and levels (C, num_rows, W) of streamed rows.
        finished: Slot and levels (C, H, W) of complete images; the slots are empty again.
        failed: Slot and error of images that could not be admitted; the slots are empty.
        gained: Sub-pixels that the images gained.
        written: Sub-pixels that the images in the slots have.
        error: What stopped the step; the images in the slots are lost and the slots empty.
    """

    rows: list[tuple[int, int, Tensor]] = field(default_factory=list)
    finished: list[tuple[int, Tensor]] = field(default_factory=list)
    failed: list[tuple[int, Exception]] = field(default_factory=list)
    gained: int = 0
    written: int = 0
    error: Exception | None = None


class Stepper:
    """A model with its slots. Use it from one thread at a time."""

    def __init__(self, model: PixelModel, num_slots: int) -> None:
        """Make the slots, compile, and measure the pace on one image."""
        self._model = model.eval()
        self._slots = slots = CachedSampler(model, num_slots)
        self._waiting: dict[int, Image] = {}
        self._told = np.zeros(num_slots, dtype=np.int64)
        self._num_observed = np.zeros(num_slots, dtype=np.int64)  # rows at the top
        self._known = np.zeros(num_slots, dtype=np.int64)
        channels = slots.image_shape[0]
        self._written = [_written_before(stage, channels) for stage in slots.stages]
        self._before = np.cumsum([0, *(int(table[-1]) for table in self._written)])
        # seconds of a step of one pixel for so many images
        self._pace, self._paced = 0.0, 1
        self._score_s = 0.05
        slots.admit([0], [Image(0, class_label=0 if slots.num_classes else None)])
        slots.advance()
        self._advance(max(1, slots.stages[0].plan.width - 1))
        slots.release(0)

    def step(self, step: StepInput) -> StepResult:
        """Carry out a step; an error of the model is part of the result."""
        result = StepResult()
        for slot in step.released:
            self._waiting.pop(slot, None)
            self._release(slot)
        self._waiting |= step.admitted
        admitted = self._admit(result, span_s=step.span_s)
        try:
            self._prefill([slot for slot in admitted if self._slots.stage[slot] == 0])
            before = self._slots.stage.copy()
            if ((before >= 0) & (before < len(self._slots.stages))).any():
                self._advance(self._num_pixels(step))
                stage = self._slots.stage
                self._prefill(np.flatnonzero((stage > before) & (stage < len(self._slots.stages))))
            progress = self._progress()
            result.gained, self._known = int((progress - self._known).sum()), progress
            self._report(step.streamed, result)
        except Exception as error:
            # whatever it is, it is handed to all who wait, and the slots are free again
            result.error = error
            self._waiting.clear()
            for slot in np.flatnonzero(self._slots.stage >= 0).tolist():
                self._release(slot)
        result.written = int(self._known.sum())
        return result

    def score(self, x: Tensor, class_labels: Tensor | None, *, span_s: float) -> Tensor:
        """Return the surprise of the first images of x, as many as fit a span of time, (n, C, H, W)."""
        count = max(1, min(len(x), int(span_s / self._score_s)))
        started = time.perf_counter()
        labels = None if class_labels is None else class_labels[:count]
        nats = nats_map(self._model, x[:count], labels)
        self._score_s += 0.5 * ((time.perf_counter() - started) / count - self._score_s)
        return nats

    def _admit(self, result: StepResult, *, span_s: float) -> list[int]:
        """Admit images for a span of time, one at least; the noise of a large image takes milliseconds."""
        deadline = time.perf_counter() + span_s
        admitted = []
        for slot, image in list(self._waiting.items()):
            del self._waiting[slot]
            try:
                self._slots.admit([slot], [image])
                self._told[slot], self._num_observed[slot] = 0, _num_rows_observed(image)
                admitted.append(slot)
            except Exception as error:  # whatever it is, it belongs to this image's caller alone
                self._release(slot)
                result.failed.append((slot, error))
            if time.perf_counter() > deadline:
                break
        return admitted

    def _release(self, slot: int) -> None:
        self._slots.release(slot)
        self._known[slot] = 0

    def _prefill(self, slots: Iterable[int]) -> None:
        """Consume the observed rows of images that begin a stage."""
        groups: dict[tuple[int, int], list[int]] = {}
        for slot in slots:
            key = int(self._slots.stage[slot]), int(self._num_observed[slot])
            groups.setdefault(key, []).append(int(slot))
        for (_, num_rows), group in groups.items():
            if num_rows:
                self._slots.prefill(group)

    def _num_pixels(self, step: StepInput) -> int:
        slots, remaining, active = self._slots, [], 0
        for number, stage in enumerate(slots.stages):
            here = np.flatnonzero(slots.stage == number)
            size = stage.height * stage.plan.width
            remaining += [size - slots.row[here] * stage.plan.width - slots.column[here]]
            active += len(here)
        left = np.concatenate(remaining)
        pace = self._pace * max(1.0, active / self._paced)
        fitting = max(1, int(step.span_s / pace))
        if step.is_crowded:
            fitting = min(fitting, max(int(left.min()), fitting // 4, 1))
        return min(fitting, max(1, int(left.max())))

    def _advance(self, num_pixels: int) -> None:
        standing = (self._slots.stage >= 0) & (self._slots.stage < len(self._slots.stages))
        before = self._progress()
        started = time.perf_counter()
        self._slots.advance(num_pixels)
        if self._slots.x.is_cuda:
            torch.cuda.synchronize(self._slots.x.device)
        seconds = time.perf_counter() - started
        num_active = int(standing.sum())
        # images that ended early did not take part to the end
        gained = int((self._progress() - before).sum()) / self._slots.image_shape[0]
        pace = seconds * num_active / max(gained, 1.0)
        known = self._pace * max(1.0, num_active / self._paced) if self._pace else pace
        self._pace, self._paced = known + 0.5 * (pace - known), num_active

    def _progress(self) -> NDArray[np.int64]:
        slots = self._slots
        written = np.zeros(len(slots.stage), dtype=np.int64)
        written[slots.stage == len(slots.stages)] = self._before[-1]
        for number, stage in enumerate(slots.stages):
            here = np.flatnonzero(slots.stage == number)
            position = slots.row[here] * stage.plan.width + slots.column[here]
            written[here] = self._before[number] + self._written[number][position]
        return written

    def _report(self, streamed: frozenset[int], result: StepResult) -> None:
        slots, last = self._slots, len(self._slots.stages) - 1
        finished = slots.finished()
        reports = sorted(slot for slot in streamed if slots.stage[slot] >= last)
        if not finished and not reports:
            return
        levels = slots.x.cpu()
        height = slots.image_shape[1]
        for slot in reports:
            first = int(self._told[slot])
            row = height if slots.stage[slot] > last else int(slots.row[slot])
            if row > first:
                result.rows.append((slot, first, levels[slot, :, first:row].clone()))
                self._told[slot] = row
        for slot in finished:
            result.finished.append((slot, levels[slot].clone()))
            self._release(slot)


def _written_before(stage: Stage, channels: int) -> NDArray[np.int64]:
    """Return how many sub-pixels a stage has written before each of its positions, and at its end."""
    size = stage.height * stage.plan.width
    is_written = np.ones(size, dtype=np.int64)
    if stage.given is not None:
        is_written -= stage.given.flatten().cpu().numpy().astype(np.int64)
    return np.concatenate([[0], np.cumsum(is_written * channels)])


def _num_rows_observed(image: Image) -> int:
    """Return how many rows at the top of an image are wholly observed."""
    if image.observed is None:
        return 0
    is_complete = image.observed.all(dim=2).all(dim=0)
    return int(is_complete.long().cumprod(0).sum())
