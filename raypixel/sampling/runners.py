"""One stage of sampling for a batch of slots: in PyTorch over the batch, or compiled image by image."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raypixel.nn.likelihoods import PixelLikelihood
from raypixel.nn.masked import scale_levels
from raypixel.nn.plan import Stage
from raypixel.sampling import fused
from raypixel.sampling.blocks import Schedule
from raypixel.sampling.memory import Memory
from raypixel.sampling.stepping import Stepper, Where

# memory that a block of observed rows may take; more images are consumed in turn
BLOCK_BYTES = 2**27


@dataclass
class Batch:
    """What the slots hold beside the stages' planes; on the model's device but for the positions.

    Attributes:
        likelihood: Of the model.
        num_levels: K.
        x: Levels, (num_slots, C, H, W), uint8.
        observed: Which are kept, (num_slots, C, H, W), bool.
        noise: In the order of generation, (num_slots, C * H * W, noise_size).
        temperature: (num_slots,).
        class_labels: (num_slots,), int64.
        recorded: Parameters, (num_slots, P, C, H, W) in the model's type; no slots if they are not recorded.
        row: Row of the next pixel, (num_slots,), int64.
        column: Column of the next pixel, (num_slots,), int64.
    """

    likelihood: PixelLikelihood
    num_levels: int
    x: Tensor
    observed: Tensor
    noise: Tensor
    temperature: Tensor
    class_labels: Tensor
    recorded: Tensor
    row: NDArray[np.int64]
    column: NDArray[np.int64]

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self.x.device

    @property
    def dtype(self) -> torch.dtype:
        """The model's floating type."""
        return self.recorded.dtype


class Runner:
    """One stage, in PyTorch."""

    def __init__(
        self, batch: Batch, stage: Stage, stepper: Stepper, first_dimension: Tensor
    ) -> None:
        self.batch, self.stage, self.stepper = batch, stage, stepper
        self.plan = stage.plan
        # number of each visited pixel's first sub-pixel, (height, width)
        self._first_dimension = first_dimension.numpy()
        self._on_device = first_dimension.to(batch.device)
        given = stage.given
        self._given_on_device = None if given is None else given.to(batch.device)
        self.condition: Tensor | None = None
        shape = (len(batch.x), stage.height, self.plan.width, self.plan.condition_channels)
        if self.plan.condition is not None:
            self.condition = torch.zeros(shape, dtype=batch.dtype, device=batch.device)

    def start(self, slots: NDArray[np.int64]) -> None:
        """Forget what the slots held; compute the conditioning maps."""
        where = self._some(slots)
        self.stepper.memory.reset(where)
        if self.plan.classes is not None:
            labels = self.batch.class_labels[where]
            one_hot = torch.nn.functional.one_hot(labels, self.plan.num_classes)
            self.stepper.memory.of(self.plan.classes)[where, 0, 0] = one_hot.to(self.batch.dtype)
        if self.condition is not None:
            assert self.stage.condition is not None
            stride = self.stage.stride
            maps = self.stage.condition(self.batch.x[where][..., ::stride, ::stride])
            self.condition[where] = maps.permute(0, 2, 3, 1)

    def prefill(self, slots: NDArray[np.int64]) -> None:
        """Consume the rows at the top that all of these images have observed, in one pass wherever nothing recurs."""
        stride = self.stage.stride
        is_known = self.batch.observed[torch.as_tensor(slots)][..., ::stride, ::stride]
        is_complete = is_known.all(dim=3).all(dim=1).all(dim=0).tolist()
        num_rows = next((i for i, known in enumerate(is_complete) if not known), len(is_complete))
        if num_rows:
            schedule = Schedule(self.plan)
            block = self._block(schedule, 1, num_rows).memory.outside
            at_once = max(1, BLOCK_BYTES // (len(block) * block.element_size()))
            for start in range(0, len(slots), at_once):
                self._fill(schedule, slots[start : start + at_once], num_rows)
        self.batch.row[slots] = num_rows

    def _block(self, schedule: Schedule, num_slots: int, num_rows: int) -> Stepper:
        device, dtype = self.batch.device, self.batch.dtype
        memory = Memory(
            self.plan, num_slots, dtype=dtype, device=device,
            block_rows=num_rows, scratch=schedule.scratch,
        )  # fmt: skip
        return Stepper(memory)

    def _fill(self, schedule: Schedule, slots: NDArray[np.int64], num_rows: int) -> None:
        """Run the plan over the first rows of some images; keep of each plane what the next row reads."""
        block = self._block(schedule, len(slots), num_rows)
        own, rows = self._some(slots), slice(0, num_rows)
        where = Where(slice(None), rows)
        if self.plan.classes is not None:
            classes = self.stepper.memory.of(self.plan.classes)[own]
            block.memory.of(self.plan.classes)[:] = classes
        if self.condition is not None and self.plan.condition is not None:
            block.write(self.plan.condition, where, self.condition[own, rows])
        block.write(self.plan.levels, where, self._levels(Where(own, rows)))
        schedule.run(block, num_rows)
        for plane in self.plan.planes:
            if plane.kind == "row":
                kept, filled = self.stepper.memory.of(plane), block.memory.of(plane)
                for row in range(num_rows - plane.rows, num_rows):
                    kept[own, row % plane.rows] = filled[:, row % filled.shape[1]]

    def advance(self, slots: NDArray[np.int64], num_pixels: int) -> None:
        """Write the next pixels of images that stand in this stage."""
        for _ in range(num_pixels):
            slots = slots[self.batch.row[slots] < self.stage.height]
            if not len(slots):
                return
            self._step(slots)
            self.batch.column[slots] += 1
            ended = slots[self.batch.column[slots] == self.plan.width]
            self.batch.column[ended] = 0
            self.batch.row[ended] += 1

    def begin_rows(self, where: Where, *, is_first: bool) -> None:
        """Run the passes of the rows that begin, which all are first rows or all are not."""
        if self.condition is not None and self.plan.condition is not None:
            maps = self.condition[where.slots, where.row]
            self.stepper.write(self.plan.condition, where, maps)
        self.stepper.begin_row(where, is_first=is_first)

    def _step(self, slots: NDArray[np.int64]) -> None:
        self._begin(slots)
        self._write(self._where(slots))

    def _begin(self, slots: NDArray[np.int64]) -> None:
        """Run the passes of the rows that begin."""
        rows, columns = self.batch.row[slots], self.batch.column[slots]
        for is_first in (True, False):
            begins = slots[(columns == 0) & ((rows == 0) == is_first)]
            if len(begins):
                self.begin_rows(self._where(begins, whole_row=True), is_first=is_first)

    def _write(self, where: Where, is_idle: Tensor | None = None) -> None:
        """Write one pixel of each image, but of those that are idle, (M,), bool."""
        stride, channels = self.stage.stride, self.plan.num_channels
        row, column = where.row, where.column
        assert column is not None
        assert not isinstance(row, slice)
        fixed = is_idle
        if self.stage.given is not None:
            given = self._given(row, column)
            fixed = given if fixed is None else given | fixed
        dimension = self._dimension(row, column)
        scale = 2.0 / (self.batch.num_levels - 1)
        for c in range(channels):
            if c < self.plan.num_groups:
                params = self.stepper.params(where, c)
            own = params.unflatten(1, (channels, -1))[:, c]  # (M, P)
            pixel = (where.slots, c, row * stride, column * stride)
            drawn = self.batch.likelihood.sample(
                own / self.batch.temperature[where.slots, None].to(own.dtype),
                self.batch.noise[where.slots, dimension + c],
            )
            keeps = self.batch.observed[pixel]
            if fixed is not None:
                keeps = keeps | fixed
            if len(self.batch.recorded):
                target = (where.slots, slice(None), c, row * stride, column * stride)
                if fixed is not None:
                    own = torch.where(fixed[..., None], self.batch.recorded[target], own)
                self.batch.recorded[target] = own
            level = torch.where(keeps, self.batch.x[pixel], drawn.to(torch.uint8))
            self.batch.x[pixel] = level
            scaled = level.to(self.batch.dtype) * scale - 1.0
            self.stepper.write(self.plan.levels, where, scaled[:, None], channel=c)

    def _levels(self, where: Where) -> Tensor:
        """Return the scaled levels of a block of rows, (M, rows, width, C)."""
        stride = self.stage.stride
        x = self.batch.x[where.slots][..., ::stride, ::stride][:, :, where.row]
        levels = scale_levels(x, num_levels=self.batch.num_levels, dtype=self.batch.dtype)
        return levels.permute(0, 2, 3, 1)

    def _dimension(self, row: int | Tensor, column: int | Tensor) -> int | Tensor:
        if isinstance(row, int) and isinstance(column, int):
            return int(self._first_dimension[row, column])
        return self._on_device[row, column]

    def _given(self, row: int | Tensor, column: int | Tensor) -> Tensor:
        assert self._given_on_device is not None
        return self._given_on_device[row, column]

    def _some(self, slots: NDArray[np.int64]) -> slice | Tensor:
        if len(slots) == len(self.batch.x):
            return slice(None)
        return torch.as_tensor(slots, device=self.batch.device)

    def _where(self, slots: NDArray[np.int64], *, whole_row: bool = False) -> Where:
        rows, columns = self.batch.row[slots], self.batch.column[slots]
        if (rows == rows[0]).all() and (columns == columns[0]).all():
            return Where(self._some(slots), int(rows[0]), None if whole_row else int(columns[0]))
        device = self.batch.device
        return Where(
            torch.as_tensor(slots, device=device),
            torch.as_tensor(rows, device=device),
            None if whole_row else torch.as_tensor(columns, device=device),
        )


class FusedRunner(Runner):
    """One stage, in compiled code."""

    def __init__(
        self,
        batch: Batch,
        stage: Stage,
        stepper: Stepper,
        first_dimension: Tensor,
        program: fused.Program,
    ) -> None:
        super().__init__(batch, stage, stepper, first_dimension)
        self._program = program

    def advance(self, slots: NDArray[np.int64], num_pixels: int) -> None:
        """Write the next pixels of images that stand in this stage."""
        self._program.advance(
            self.stepper.memory,
            slots,
            self.batch.row,
            self.batch.column,
            num_pixels=num_pixels,
            x=self.batch.x,
            observed=self.batch.observed,
            noise=self.batch.noise,
            temperature=self.batch.temperature,
            condition=self.condition,
            recorded=self.batch.recorded,
            num_levels=self.batch.num_levels,
            num_params=self.batch.likelihood.num_params,
        )
