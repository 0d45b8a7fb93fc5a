"""The cached sampler: an image costs about one forward pass, because nothing is computed twice.

Its parameters equal the full pass, and its samples the oracle's for the same seeds, to rounding. Images stand in slots, each at
its own position; they join and leave at any step, and nothing of an image depends on the other slots. Three implementations
advance them, over one plan and one layout of planes: the interpreter (PyTorch over the batch), the same in steps that a
GPU captures and replays (`cuda_graph`), and compiled code (`compiled`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raypixel.models import PixelModel
from raypixel.nn.likelihoods import Bernoulli, Categorical
from raypixel.nn.mixtures import DiscretizedLogisticMixture
from raypixel.nn.plan import Stage
from raypixel.sampling import compiled, cuda_graph
from raypixel.sampling.oracle import Image, image_noise
from raypixel.sampling.stages import InterpretedStage, Slots

Implementation = Literal["interpreter", "compiled", "cuda_graph"]


@dataclass
class _Prepared:
    """What all samplers of a model share, made from its weights.

    Attributes:
        weights: Where the weights lie and how often each was changed.
        stages: The model's stages.
        first_dimensions: For each stage, the number of each visited pixel's first sub-pixel in the order of generation.
        tables: Of compiled stages, made when first used.
    """

    weights: tuple[tuple[int, int], ...]
    stages: list[Stage]
    first_dimensions: list[Tensor]
    tables: dict[int, compiled.Tables] = field(default_factory=dict)


_PREPARED: WeakKeyDictionary[PixelModel, _Prepared] = WeakKeyDictionary()


def _prepare(model: PixelModel) -> _Prepared:
    """Return a model's stages, made anew only if its weights have changed."""
    weights = tuple((weight.data_ptr(), weight._version) for weight in model.parameters())
    known = _PREPARED.get(model)
    if known is None or known.weights != weights:
        stages = model.stages()
        channels, height, width = model.image_shape
        numbers = torch.zeros(height, width, dtype=torch.int64)
        for number, (i, j) in enumerate(model.generation_order()):
            numbers[i, j] = number * channels
        visited = [numbers[:: each.stride, :: each.stride].contiguous() for each in stages]
        known = _PREPARED[model] = _Prepared(weights, stages, visited)
    return known


class CachedSampler:
    """A model with slots for images that are made together.

    Attributes:
        x: Levels written so far, (num_slots, C, H, W), uint8, on the model's device.
        params: Parameters of every sub-pixel, (num_slots, P, C, H, W), or of every pixel, (num_slots, P, H, W), if they are kept.
        implementation: How it advances.
        stage: Which stage each image stands in: -1 of an empty slot, the number of stages of a complete image.
        row: Row of each image's next pixel in its stage.
        column: Column of each image's next pixel in its stage.
    """

    def __init__(
        self,
        model: PixelModel,
        num_slots: int,
        *,
        implementation: Implementation | None = None,
        keeps_params: bool = False,
    ) -> None:
        """Make empty slots.

        Args:
            model: A registered model in evaluation mode.
            num_slots: Images in memory.
            implementation: How to advance; None chooses the fastest, see `choose_implementation`.
            keeps_params: Keep the parameters of every sub-pixel.
        """
        parameter = next(model.parameters())
        self._model, self.num_classes = model, model.num_classes
        self.image_shape = shape = model.image_shape
        likelihood, device = model.likelihood, parameter.device
        noise = (num_slots, math.prod(shape), likelihood.noise_size)
        blank = torch.zeros(0, likelihood.num_maps(shape[0]), *shape[1:])
        params = (num_slots if keeps_params else 0, *likelihood.unpack(blank).shape[1:])
        self._slots = slots = Slots(
            likelihood=likelihood,
            num_levels=model.num_levels,
            x=torch.zeros(num_slots, *shape, dtype=torch.uint8, device=device),
            observed=torch.zeros(num_slots, *shape, dtype=torch.bool, device=device),
            noise=torch.zeros(noise, device=device),
            temperature=torch.ones(num_slots, device=device),
            class_labels=torch.zeros(num_slots, dtype=torch.int64, device=device),
            params=torch.zeros(params, dtype=parameter.dtype, device=device),
            row=np.zeros(num_slots, dtype=np.int64),
            column=np.zeros(num_slots, dtype=np.int64),
        )
        self.x, self.params = slots.x, slots.params
        self.row, self.column = slots.row, slots.column
        self.stage = np.full(num_slots, -1)
        self._prepared = _prepare(model)
        self.stages = self._prepared.stages
        self.implementation = implementation or choose_implementation(slots)
        self._stages = [self._implement(number) for number in range(len(self.stages))]

    def _implement(self, number: int) -> InterpretedStage:
        arguments = self._slots, self.stages[number], self._prepared.first_dimensions[number]
        if self.implementation == "compiled":
            stage = compiled.CompiledStage(*arguments, tables=self._prepared.tables.get(number))
            self._prepared.tables[number] = stage.tables
            return stage
        is_graph = self.implementation == "cuda_graph"
        return (cuda_graph.GraphStage if is_graph else InterpretedStage)(*arguments)

    def admit(self, slots: Sequence[int], images: Sequence[Image]) -> None:
        """Put images into empty slots, at their first position.

        Raises:
            ValueError: A class label does not fit the model.
        """
        held = self._slots
        for slot, image in zip(slots, images, strict=True):
            assert self.stage[slot] < 0, f"slot {slot} is taken"
            held.noise[slot] = image_noise(self._model, image.seed).to(held.device)
            held.temperature[slot] = image.temperature
            held.x[slot] = 0
            held.observed[slot] = False
            if image.x is not None and image.observed is not None:
                observed = image.observed.to(held.device)
                held.observed[slot] = observed
                held.x[slot] = torch.where(observed, image.x.to(held.device), 0).to(torch.uint8)
            if self.num_classes:
                if image.class_label is None:
                    raise ValueError(f"class_label must be one of {self.num_classes}, got None")
                held.class_labels[slot] = image.class_label
            elif image.class_label is not None:
                raise ValueError("class_label must be None, the model is not class-conditional")
        self._enter(np.asarray(slots), 0)

    def release(self, slot: int) -> None:
        """Empty a slot, finished or not."""
        self.stage[slot] = -1

    def finished(self) -> list[int]:
        """Return the slots whose image is complete."""
        return [int(slot) for slot in np.flatnonzero(self.stage == len(self.stages))]

    @torch.no_grad()
    def advance(self, num_pixels: int = 1) -> None:
        """Write the next pixels of every image that is not complete; a stage's end is not crossed."""
        for number, stage in enumerate(self._stages):
            slots = np.flatnonzero(self.stage == number)
            if len(slots):
                stage.advance(slots, num_pixels)
        # only now: captured steps write to the planes of slots that are not in their stage yet
        for number, stage in reversed(list(enumerate(self._stages))):
            ended = (self.stage == number) & (self.row == stage.stage.height)
            if ended.any():
                self._enter(np.flatnonzero(ended), number + 1)

    @torch.no_grad()
    def prefill(self, slots: Sequence[int]) -> None:
        """Consume the rows at the top that are observed in all of these images, in one pass wherever nothing recurs.

        The images stand at the beginning of a stage. Compiled code does nothing here: it walks over observed rows faster
        than that, and so that an image's numbers do not depend on who else comes.
        """
        (number,) = {int(self.stage[slot]) for slot in slots}
        if number < len(self._stages) and self.implementation != "compiled":
            self._stages[number].prefill(np.asarray(slots))

    @torch.no_grad()
    def _enter(self, slots: NDArray[np.int64], number: int) -> None:
        self.stage[slots] = number
        self.row[slots] = self.column[slots] = 0
        if number < len(self._stages):
            self._stages[number].start(slots)


def choose_implementation(slots: Slots) -> Implementation:
    """Choose how to advance: captured steps on a GPU, compiled code on a CPU, the interpreter for what neither takes.

    Compiled code won for every model and batch size measured on CPUs (docs/performance.md).
    """
    if cuda_graph.is_available(slots.device):
        return "cuda_graph"
    is_plain = isinstance(slots.likelihood, Bernoulli | Categorical | DiscretizedLogisticMixture)
    is_compiled = slots.device.type == "cpu" and is_plain and compiled.is_available(slots.dtype)
    return "compiled" if is_compiled else "interpreter"


def draw(
    model: PixelModel,
    images: Sequence[Image],
    *,
    progress: Callable[[int], None] | None = None,
    watch: Callable[[Tensor], None] | None = None,
    implementation: Implementation | None = None,
) -> Tensor:
    """Draw images, all at one position.

    Args:
        model: A registered model in evaluation mode, on its device.
        images: One at least.
        progress: Called with the number of sub-pixels that each image has gained.
        watch: Called with the levels so far, (N, C, H, W), after each row.
        implementation: How to advance; by default the fastest one.

    Returns:
        Levels, (N, C, H, W), uint8, on the CPU.
    """
    sampler = CachedSampler(model, len(images), implementation=implementation)
    slots = range(len(images))
    sampler.admit(slots, images)
    channels = sampler.image_shape[0]
    done = 0
    for number, stage in enumerate(sampler.stages):
        sampler.prefill(slots)
        given = 0 if stage.given is None else int(stage.given.sum())
        total = channels * (stage.height * stage.plan.width - given)
        before = done
        while sampler.stage[0] == number:
            sampler.advance(stage.plan.width)
            row = int(sampler.row[0]) if sampler.stage[0] == number else stage.height
            gained = before + math.floor(total * row / stage.height) - done
            done += gained
            if progress:
                progress(gained)
            if watch:
                watch(sampler.x.cpu())
    return sampler.x.cpu()
