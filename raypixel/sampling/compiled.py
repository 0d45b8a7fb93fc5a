"""Run a plan in compiled code: all operations of a pixel, and of many pixels, in one call, image by image.

For few images the cost of a step in PyTorch is not arithmetic but calls: 50 operations of 10 microseconds for a pixel. Here
a plan is flattened into two arrays, the operations (integers) and their weights, and one function, compiled once for
all models, walks them. It knows no architecture: it has the four operations of `raypixel.nn.plan`.
A product skips inputs that are zero (half of them, behind a ReLU) and takes four columns of weights at a time, so
that the sums stay in the first-level cache. Threads take images in turn.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raypixel.nn.plan import Cell, Gate, Linear, Norm, Op, Stage, Tap
from raypixel.sampling.planes import Planes, padded_width
from raypixel.sampling.stages import InterpretedStage, Slots

# an operation: kind, rectifies, bias offset or -1, weight offset, first tap, taps, first plus, pluses
OP_FIELDS = 8
LINEAR, NORM, GATE, CELL = range(4)
# a tap: offset of the plane, ring of rows, columns kept (0: not by column), columns at the left, size, row, column, start, stop,
# numbers from one column to the next (0: not by column)
TAP_FIELDS = 10
# numbers in a vector of the compiled code
LANES = 16


def is_available(dtype: torch.dtype) -> bool:
    """Whether compiled code can be made for a floating type here."""
    return dtype in (torch.float32, torch.float64) and find_spec("numba") is not None


class Tables:
    """A stage flattened for compiled code.

    Attributes:
        plan: Operations, taps, (passes: first and last operation, leftwards, skips the first row), (sub-steps: first and last
            operation), and the taps of levels, parameters and condition, -1 for none.
        weights: The numbers of all operations.
        scan: Height, width, stride, `first_dimension`, and which positions an earlier stage wrote.
    """

    def __init__(self, stage: Stage, planes: Planes, first_dimension: NDArray[np.int64]) -> None:
        """Flatten a stage.

        Args:
            stage: The stage.
            planes: Any planes of its plan: they tell where each lies and the floating type.
            first_dimension: Number of each visited pixel's first sub-pixel in the order of generation, (height, width).
        """
        self._offsets, plan = planes.offsets, stage.plan
        self._width = plan.width
        self._ops: list[list[int]] = []
        self._taps: list[list[int]] = []
        self._numbers: list[Tensor] = []
        self._offset = 0
        passes = [
            [*self._add(row_pass.ops), row_pass.order == "leftwards", row_pass.skips_first]
            for row_pass in plan.passes
        ]
        programs = [self._add(plan.program(group)) for group in range(plan.num_groups)]
        special = []
        for plane in (plan.levels, plan.params, plan.condition):
            special.append(-1 if plane is None else len(self._taps))
            self._taps += [] if plane is None else [self._tap(plane.at())]
        self.plan = (
            np.array(self._ops, dtype=np.int64).reshape(-1, OP_FIELDS),
            np.array(self._taps, dtype=np.int64).reshape(-1, TAP_FIELDS),
            np.array(passes, dtype=np.int64).reshape(-1, 4),
            np.array(programs, dtype=np.int64).reshape(-1, 2),
            *special,
        )
        numbers = [part.detach().cpu().flatten() for part in self._numbers]
        weights = torch.cat(numbers) if numbers else torch.zeros(0)
        self.weights = weights.to(planes.flat.dtype).numpy()
        given = np.zeros((0, 0), np.bool_) if stage.given is None else stage.given.numpy()
        self.scan = (stage.height, plan.width, stage.stride, first_dimension, given)

    def _add(self, ops: "list[Op] | tuple[Op, ...]") -> list[int]:
        """Append operations; return the first and the one after the last."""
        start = len(self._ops)
        for op in ops:
            first = len(self._taps)
            bias, weight, rectifies = -1, 0, False
            taps: tuple[Tap, ...]
            pluses: tuple[Tap, ...] = ()
            if isinstance(op, Linear):
                kind, taps, pluses, rectifies = LINEAR, (op.target, *op.taps), op.plus, op.relu
                weight = self._put(_padded(op.weight))
                bias = -1 if op.bias is None else self._put(op.bias)
            elif isinstance(op, Norm):
                kind, taps = NORM, (op.target, op.source)
                weight, bias = self._put(op.weight), self._put(op.bias)
                self._put(torch.tensor([op.eps], dtype=torch.float64))
            elif isinstance(op, Gate):
                kind, taps = GATE, (op.target, op.source)
            else:
                assert isinstance(op, Cell)
                kind, taps = CELL, (op.hidden, op.cell, op.gates, op.previous)
            self._taps += [self._tap(tap) for tap in (*taps, *pluses)]
            counts = [first, len(taps), first + len(taps), len(pluses)]
            self._ops.append([kind, rectifies, bias, weight, *counts])
        return [start, len(self._ops)]

    def _put(self, numbers: Tensor) -> int:
        offset = self._offset
        self._numbers.append(numbers)
        self._offset += numbers.numel()
        return offset

    def _tap(self, tap: Tap) -> list[int]:
        plane = tap.plane
        columns = padded_width(plane, self._width) if plane.kind == "row" else 0
        return [
            self._offsets[plane], plane.rows, columns, plane.left, plane.size,
            tap.row, tap.column, tap.start, tap.stop, plane.size if columns else 0,
        ]  # fmt: skip


class CompiledStage(InterpretedStage):
    """One stage, in compiled code.

    Attributes:
        tables: The stage flattened.
    """

    def __init__(
        self, slots: Slots, stage: Stage, first_dimension: Tensor, *, tables: Tables | None = None
    ) -> None:
        super().__init__(slots, stage, first_dimension)
        self.tables = tables or Tables(stage, self.planes, self._first_dimension)

    def advance(self, slots: NDArray[np.int64], num_pixels: int) -> None:
        """Write the next pixels of images that stand in this stage; threads take images in turn."""
        from raypixel.sampling.compiled_plan import advance

        held, tables = self.slots, self.tables
        condition = self.condition
        if condition is None:
            condition = self.planes.flat.new_zeros((0, 0, 0, 0))
        tensors = (self.planes.flat, held.x, held.observed, held.noise, held.temperature)
        arrays = tuple(each.numpy() for each in (*tensors, condition, held.params))
        likelihood = (held.num_levels, held.likelihood.num_params)

        def run(part: NDArray[np.int64]) -> None:
            advance(
                part, held.row, held.column, num_pixels,
                tables.plan, tables.weights, tables.scan, arrays, *likelihood,
            )  # fmt: skip

        num_threads = min(torch.get_num_threads(), len(slots))
        if num_threads == 1:
            run(slots)
            return
        parts = [slots[thread::num_threads] for thread in range(num_threads)]
        others = [_pool(num_threads - 1).submit(run, part) for part in parts[1:]]
        run(parts[0])
        for other in others:
            other.result()


@cache
def _pool(num_threads: int) -> ThreadPoolExecutor:
    """Return threads that are kept: a server asks for one pixel at a time."""
    return ThreadPoolExecutor(num_threads, thread_name_prefix="raypixel-sampling")


def _padded(weight: Tensor) -> Tensor:
    """Fill columns up with zeros to whole vectors."""
    return torch.nn.functional.pad(weight, (0, -weight.shape[1] % LANES))
