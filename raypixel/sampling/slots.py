"""Slots: a batch whose images stand at different positions, each joining and leaving at any step.

An image's noise, levels and maps lie in its slot; nothing of it depends on the other slots. Three ways to advance share
one plan and one memory: PyTorch over the batch (`stepping`), the same in steps that a GPU records and replays (`replay`),
and compiled code image by image (`fused`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raypixel.models.registry import PixelModel, generation_order, sampling_stages
from raypixel.nn.likelihoods import Bernoulli, Categorical, gumbel_noise
from raypixel.nn.plan import Stage
from raypixel.sampling import fused
from raypixel.sampling.memory import Memory
from raypixel.sampling.replay import RecordedRunner, records_on
from raypixel.sampling.runners import Batch, FusedRunner, Runner
from raypixel.sampling.stepping import Stepper

Backend = Literal["torch", "fused", "recorded"]


@dataclass(frozen=True)
class Image:
    """One image to be made.

    Attributes:
        seed: Seed of its noise.
        class_label: Its class, for a class-conditional model.
        temperature: Divides the logits.
        x: Levels of the observed sub-pixels, (C, H, W); None if nothing is observed.
        observed: Which sub-pixels are kept from x, (C, H, W), bool.
    """

    seed: int
    class_label: int | None = None
    temperature: float = 1.0
    x: Tensor | None = None
    observed: Tensor | None = None


@dataclass
class _Prepared:
    """What all slots of a model share, made from its weights.

    Attributes:
        weights: Where the weights lie and how often each was changed.
        stages: The model's stages.
        first_dimensions: For each stage, the number of each visited pixel's first sub-pixel in the order of generation.
        programs: Compiled stages, made when first used.
    """

    weights: tuple[tuple[int, int], ...]
    stages: list[Stage]
    first_dimensions: list[Tensor]
    programs: dict[int, fused.Program]


_PREPARED: WeakKeyDictionary[nn.Module, _Prepared] = WeakKeyDictionary()


def _prepare(model: nn.Module) -> _Prepared:
    """Return a model's stages, made anew only if its weights have changed."""
    weights = tuple((weight.data_ptr(), weight._version) for weight in model.parameters())
    known = _PREPARED.get(model)
    if known is None or known.weights != weights:
        stages = sampling_stages(model)
        channels, height, width = cast(PixelModel, model).image_shape
        numbers = torch.zeros(height, width, dtype=torch.int64)
        for number, (i, j) in enumerate(generation_order(model)):
            numbers[i, j] = number * channels
        visited = [numbers[:: each.stride, :: each.stride].contiguous() for each in stages]
        known = _PREPARED[model] = _Prepared(weights, stages, visited, {})
    return known


class Slots:
    """Places for images that are made together.

    Attributes:
        x: Levels written so far, (num_slots, C, H, W), uint8, on the model's device.
        recorded: Parameters of every sub-pixel, (num_slots, P, C, H, W), if they are recorded.
        backend: How it advances.
        stage: Which stage each image stands in: -1 of an empty slot, the number of stages of a complete image.
        row: Row of each image's next pixel in its stage.
        column: Column of each image's next pixel in its stage.
    """

    def __init__(
        self,
        model: nn.Module,
        num_slots: int,
        *,
        backend: Backend | None = None,
        records: bool = False,
    ) -> None:
        """Make empty slots.

        Args:
            model: A registered model in evaluation mode.
            num_slots: Images in memory.
            backend: How to advance; by default compiled code on a CPU, recorded steps on a GPU and PyTorch elsewhere.
            records: Keep the parameters of every sub-pixel.
        """
        pixel_model = cast(PixelModel, model)
        parameter = next(model.parameters())
        self.num_classes = pixel_model.num_classes
        self.image_shape = shape = pixel_model.image_shape
        likelihood, device = pixel_model.likelihood, parameter.device
        noise = (num_slots, math.prod(shape), likelihood.noise_size)
        recorded = (num_slots if records else 0, likelihood.num_params, *shape)
        self._batch = Batch(
            likelihood=likelihood,
            num_levels=pixel_model.num_levels,
            x=torch.zeros(num_slots, *shape, dtype=torch.uint8, device=device),
            observed=torch.zeros(num_slots, *shape, dtype=torch.bool, device=device),
            noise=torch.zeros(noise, device=device),
            temperature=torch.ones(num_slots, device=device),
            class_labels=torch.zeros(num_slots, dtype=torch.int64, device=device),
            recorded=torch.zeros(recorded, dtype=parameter.dtype, device=device),
            row=np.zeros(num_slots, dtype=np.int64),
            column=np.zeros(num_slots, dtype=np.int64),
        )
        self.x, self.recorded = self._batch.x, self._batch.recorded
        self.row, self.column = self._batch.row, self._batch.column
        self._prepared = _prepare(model)
        self.stages = self._prepared.stages
        self.backend = backend or choose_backend(self._batch)
        self._runners = [self._runner(number, self.backend) for number in range(len(self.stages))]
        self.stage = np.full(num_slots, -1)

    def _runner(self, number: int, backend: Backend) -> Runner:
        stage, first_dimension = self.stages[number], self._prepared.first_dimensions[number]
        batch = self._batch
        memory = Memory(stage.plan, len(batch.x), dtype=batch.dtype, device=batch.device)
        stepper = Stepper(memory)
        if backend == "torch":
            return Runner(batch, stage, stepper, first_dimension)
        if backend == "recorded":
            return RecordedRunner(batch, stage, stepper, first_dimension)
        programs = self._prepared.programs
        if number not in programs:
            programs[number] = fused.Program(stage, memory, first_dimension)
        return FusedRunner(batch, stage, stepper, first_dimension, programs[number])

    def admit(self, slots: Sequence[int], images: Sequence[Image]) -> None:
        """Put images into empty slots, at their first position."""
        batch = self._batch
        for slot, image in zip(slots, images, strict=True):
            assert self.stage[slot] < 0, f"slot {slot} is taken"
            generator = torch.Generator().manual_seed(image.seed)
            noise = gumbel_noise(tuple(batch.noise.shape[1:]), generator)
            batch.noise[slot] = noise.float().to(batch.device)
            batch.temperature[slot] = image.temperature
            batch.x[slot] = 0
            batch.observed[slot] = False
            if image.x is not None and image.observed is not None:
                observed = image.observed.to(batch.device)
                batch.observed[slot] = observed
                batch.x[slot] = torch.where(observed, image.x.to(batch.device), 0).to(torch.uint8)
            if self.num_classes:
                if image.class_label is None:
                    raise ValueError(f"class_label must be one of {self.num_classes}, got None")
                batch.class_labels[slot] = image.class_label
            elif image.class_label is not None:
                raise ValueError("class_label must be None, the model is not class-conditional")
        self._enter(np.asarray(slots), 0)

    def release(self, slot: int) -> None:
        """Empty a slot, finished or not."""
        self.stage[slot] = -1

    def finished(self) -> list[int]:
        """Return the slots whose image is complete."""
        return [int(slot) for slot in np.flatnonzero(self.stage == len(self.stages))]

    def advance(self, num_pixels: int = 1) -> None:
        """Write the next pixels of every image that is not complete; a stage's end is not crossed."""
        for number, runner in enumerate(self._runners):
            slots = np.flatnonzero(self.stage == number)
            if len(slots):
                with torch.no_grad():
                    runner.advance(slots, num_pixels)
        # only now: recorded steps write to the memory of slots that are not in their stage yet
        for number, runner in reversed(list(enumerate(self._runners))):
            ended = (self.stage == number) & (self.row == runner.stage.height)
            if ended.any():
                self._enter(np.flatnonzero(ended), number + 1)

    def prefill(self, slots: Sequence[int]) -> None:
        """Consume the rows at the top that are observed in all of these images, in one pass wherever nothing recurs.

        It runs in PyTorch: compiled code walks over observed rows faster than that, but for large batches.
        The images stand at the beginning of a stage.
        """
        stages = {int(self.stage[slot]) for slot in slots}
        assert len(stages) == 1
        if (number := stages.pop()) < len(self._runners):
            with torch.no_grad():
                self._runners[number].prefill(np.asarray(slots))

    def _enter(self, slots: NDArray[np.int64], number: int) -> None:
        self.stage[slots] = number
        self._batch.row[slots] = self._batch.column[slots] = 0
        if number < len(self._runners):
            with torch.no_grad():
                self._runners[number].start(slots)


def choose_backend(batch: Batch) -> Backend:
    """Choose how to advance: compiled code won for every model and batch size measured on CPUs (docs/performance.md)."""
    if records_on(batch.device):
        return "recorded"
    is_plain = isinstance(batch.likelihood, Bernoulli | Categorical)
    is_compiled = batch.device.type == "cpu" and is_plain and fused.is_available(batch.dtype)
    return "fused" if is_compiled else "torch"
