"""One stage of sampling for a batch of slots, in PyTorch: the passes of rows that begin, and one pixel of each image.

The interpreter's way to advance, and what `cuda_graph` and `compiled` have in common with it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raypixel.nn.likelihoods import PixelLikelihood
from raypixel.nn.masked import scale_levels
from raypixel.nn.plan import Stage
from raypixel.sampling.interpreter import Interpreter, Positions
from raypixel.sampling.planes import Planes
from raypixel.sampling.prefill import Schedule

# memory that a block of observed rows may take; more images are consumed in turn
BLOCK_BYTES = 2**27


@dataclass
class Slots:
    """What the slots hold beside the stages' planes; on the model's device but for the positions.

    Attributes:
        likelihood: Of the model.
        num_levels: K.
        x: Levels, (num_slots, C, H, W), uint8.
        observed: Which are kept, (num_slots, C, H, W), bool.
        noise: In the order of generation, (num_slots, C * H * W, noise_size).
        temperature: (num_slots,).
        class_labels: (num_slots,), int64.
        params: Parameters, (num_slots, P, C, H, W) or (num_slots, P, H, W), in the model's type; no slots if they are not kept.
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
    params: Tensor
    row: NDArray[np.int64]
    column: NDArray[np.int64]

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self.x.device

    @property
    def dtype(self) -> torch.dtype:
        """The model's floating type."""
        return self.params.dtype


class InterpretedStage:
    """One stage, in PyTorch.

    Attributes:
        slots: What the slots hold.
        stage: The stage.
        plan: Its plan.
        planes: The plan's planes for every slot.
        condition: Conditioning maps of every slot, (num_slots, height, width, c), where the plan has them.
    """

    def __init__(self, slots: Slots, stage: Stage, first_dimension: Tensor) -> None:
        """Make planes for the slots.

        Args:
            slots: What the slots hold.
            stage: The stage.
            first_dimension: Number of each visited pixel's first sub-pixel in the order of generation, (height, width).
        """
        self.slots, self.stage, self.plan = slots, stage, stage.plan
        num_slots, device, dtype = len(slots.x), slots.device, slots.dtype
        self.planes = Planes(self.plan, num_slots, dtype=dtype, device=device)
        self._interpreter = Interpreter(self.planes)
        self._first_dimension = first_dimension.numpy()
        self._first_dimension_there = first_dimension.to(device)
        self._given = None if stage.given is None else stage.given.to(device)
        self.condition: Tensor | None = None
        if self.plan.condition is not None:
            shape = (num_slots, stage.height, self.plan.width, self.plan.condition_channels)
            self.condition = torch.zeros(shape, dtype=dtype, device=device)

    def start(self, slots: NDArray[np.int64]) -> None:
        """Forget what the slots held; compute the conditioning maps."""
        where = self._some(slots)
        self.planes.flat[where] = self.planes.outside
        if self.plan.classes is not None:
            labels = self.slots.class_labels[where]
            one_hot = torch.nn.functional.one_hot(labels, self.plan.num_classes)
            self.planes[self.plan.classes][where, 0, 0] = one_hot.to(self.slots.dtype)
        if self.condition is not None:
            assert self.stage.condition is not None
            stride = self.stage.stride
            maps = self.stage.condition(self.slots.x[where][..., ::stride, ::stride])
            self.condition[where] = maps.permute(0, 2, 3, 1)

    def prefill(self, slots: NDArray[np.int64]) -> None:
        """Consume the rows at the top that all of these images have observed, in one pass wherever nothing recurs."""
        stride = self.stage.stride
        is_known = self.slots.observed[torch.as_tensor(slots)][..., ::stride, ::stride]
        is_complete = is_known.all(dim=3).all(dim=1).all(dim=0).tolist()
        num_rows = next((i for i, known in enumerate(is_complete) if not known), len(is_complete))
        if num_rows:
            schedule = Schedule(self.plan)
            block = self._block(schedule, 1, num_rows).outside
            at_once = max(1, BLOCK_BYTES // (len(block) * block.element_size()))
            for start in range(0, len(slots), at_once):
                self._fill(schedule, slots[start : start + at_once], num_rows)
        self.slots.row[slots] = num_rows

    def _block(self, schedule: Schedule, num_slots: int, num_rows: int) -> Planes:
        return Planes(
            self.plan, num_slots, dtype=self.slots.dtype, device=self.slots.device,
            block_rows=num_rows, scratch=schedule.scratch,
        )  # fmt: skip

    def _fill(self, schedule: Schedule, slots: NDArray[np.int64], num_rows: int) -> None:
        """Run the plan over the first rows of some images; keep of each plane what the next row reads."""
        block = Interpreter(self._block(schedule, len(slots), num_rows))
        own, rows = self._some(slots), slice(0, num_rows)
        where = Positions(slice(None), rows)
        if self.plan.classes is not None:
            block.planes[self.plan.classes][:] = self.planes[self.plan.classes][own]
        if self.condition is not None and self.plan.condition is not None:
            block.write(self.plan.condition, where, self.condition[own, rows])
        block.write(self.plan.levels, where, self._levels(own, rows))
        schedule.run(block, num_rows)
        for plane in self.plan.planes:
            if plane.kind == "row":
                kept, filled = self.planes[plane], block.planes[plane]
                written = -(-num_rows // plane.scale)
                for row in range(written - plane.rows, written):
                    kept[own, row % plane.rows] = filled[:, row % filled.shape[1]]

    def _levels(self, slots: slice | Tensor, rows: slice) -> Tensor:
        """Return the scaled levels of a block of rows, (M, rows, width, C)."""
        stride = self.stage.stride
        x = self.slots.x[slots][..., ::stride, ::stride][:, :, rows]
        levels = scale_levels(x, num_levels=self.slots.num_levels, dtype=self.slots.dtype)
        return levels.permute(0, 2, 3, 1)

    def advance(self, slots: NDArray[np.int64], num_pixels: int) -> None:
        """Write the next pixels of images that stand in this stage."""
        for _ in range(num_pixels):
            slots = slots[self.slots.row[slots] < self.stage.height]
            if not len(slots):
                return
            self._step(slots)
            self.slots.column[slots] += 1
            ended = slots[self.slots.column[slots] == self.plan.width]
            self.slots.column[ended] = 0
            self.slots.row[ended] += 1

    def _step(self, slots: NDArray[np.int64]) -> None:
        self._begin(slots)
        self._write(self._positions(slots))

    def _begin(self, slots: NDArray[np.int64]) -> None:
        """Run the passes of the rows that begin."""
        rows, columns = self.slots.row[slots], self.slots.column[slots]
        for is_first in (True, False):
            begins = slots[(columns == 0) & ((rows == 0) == is_first)]
            if len(begins):
                self._begin_rows(self._positions(begins, whole_row=True), is_first=is_first)

    def _begin_rows(self, where: Positions, *, is_first: bool) -> None:
        """Run the passes of the rows that begin, which all are first rows or all are not."""
        if self.condition is not None and self.plan.condition is not None:
            maps = self.condition[where.slots, where.row]
            self._interpreter.write(self.plan.condition, where, maps)
        self._interpreter.begin_row(where, is_first=is_first)

    def _write(self, where: Positions, is_idle: Tensor | None = None) -> None:
        """Write one pixel of each image, but of those that are idle, (M,), bool."""
        slots, stride, channels = self.slots, self.stage.stride, self.plan.num_channels
        row, column = where.row, where.column
        assert column is not None
        assert not isinstance(row, slice)
        fixed = is_idle
        if self._given is not None:
            given = self._given[row, column]
            fixed = given if fixed is None else given | fixed
        dimension: int | Tensor
        if isinstance(row, int) and isinstance(column, int):
            dimension = int(self._first_dimension[row, column])
        else:
            dimension = self._first_dimension_there[row, column]
        scale = 2.0 / (slots.num_levels - 1)
        for c in range(channels):
            if c < self.plan.num_groups:
                params = slots.likelihood.unpack(self._interpreter.params(where, c))
            pixel = (where.slots, c, row * stride, column * stride)
            drawn = slots.likelihood.sample(
                params,
                slots.noise[where.slots, dimension + c],
                given=slots.x[where.slots, :c, row * stride, column * stride],
                temperature=slots.temperature[where.slots, None].to(params.dtype),
            )
            keeps = slots.observed[pixel]
            if fixed is not None:
                keeps = keeps | fixed
            level = torch.where(keeps, slots.x[pixel], drawn.to(torch.uint8))
            slots.x[pixel] = level
            scaled = level.to(slots.dtype) * scale - 1.0
            self._interpreter.write(self.plan.levels, where, scaled[:, None], channel=c)
        self._interpreter.end(where)
        if len(slots.params):
            target = (where.slots, ..., row * stride, column * stride)
            if fixed is not None:
                held = fixed.view(-1, *[1] * (params.dim() - 1))
                params = torch.where(held, slots.params[target], params)
            slots.params[target] = params

    def _some(self, slots: NDArray[np.int64]) -> slice | Tensor:
        if len(slots) == len(self.slots.x):
            return slice(None)
        return torch.as_tensor(slots, device=self.slots.device)

    def _positions(self, slots: NDArray[np.int64], *, whole_row: bool = False) -> Positions:
        rows, columns = self.slots.row[slots], self.slots.column[slots]
        if (rows == rows[0]).all() and (columns == columns[0]).all():
            column = None if whole_row else int(columns[0])
            return Positions(self._some(slots), int(rows[0]), column)
        own, row, column_of_each = (
            torch.as_tensor(each, device=self.slots.device) for each in (slots, rows, columns)
        )
        return Positions(own, row, None if whole_row else column_of_each)
