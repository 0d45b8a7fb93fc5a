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
from raypixel.sampling.memory import Memory, padded_width

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


class Program:
    """A stage flattened for the compiled walker."""

    def __init__(self, stage: Stage, memory: Memory, first_dimension: Tensor) -> None:
        """Flatten a stage.

        Args:
            stage: The stage.
            memory: Any memory of its plan: it tells where planes lie and the floating type.
            first_dimension: Number of each visited pixel's first sub-pixel in the order of generation, (height, width).
        """
        self._memory = memory
        self._ops: list[list[int]] = []
        self._taps: list[list[int]] = []
        self._numbers: list[Tensor] = []
        self._offset = 0
        self._width = plan_width = stage.plan.width
        plan = stage.plan
        passes = []
        for row_pass in plan.passes:
            first = len(self._ops)
            for op in row_pass.ops:
                self._add(op)
            passes.append(
                [first, len(self._ops), row_pass.order == "leftwards", row_pass.skips_first]
            )
        programs = []
        for group in range(plan.num_groups):
            first = len(self._ops)
            for op in plan.program(group):
                self._add(op)
            programs.append([first, len(self._ops)])
        special = []
        for plane in (plan.levels, plan.params, plan.condition):
            special.append(-1 if plane is None else len(self._taps))
            self._taps += [] if plane is None else [self._tap(plane.at())]
        self._tables = (
            np.array(self._ops, dtype=np.int64).reshape(-1, OP_FIELDS),
            np.array(self._taps, dtype=np.int64).reshape(-1, TAP_FIELDS),
            np.array(passes, dtype=np.int64).reshape(-1, 4),
            np.array(programs, dtype=np.int64).reshape(-1, 2),
            *special,
        )
        numbers = [part.detach().cpu().flatten() for part in self._numbers]
        dtype = memory.flat.dtype
        self._weights = (torch.cat(numbers) if numbers else torch.zeros(0)).to(dtype).numpy()
        given = stage.given
        self._scan = (
            stage.height,
            plan_width,
            stage.stride,
            first_dimension.numpy(),
            np.zeros((0, 0), dtype=np.bool_) if given is None else given.numpy(),
        )

    def advance(
        self,
        memory: Memory,
        slots: NDArray[np.int64],
        rows: NDArray[np.int64],
        columns: NDArray[np.int64],
        *,
        num_pixels: int,
        x: Tensor,
        observed: Tensor,
        noise: Tensor,
        temperature: Tensor,
        condition: Tensor | None,
        recorded: Tensor,
        num_levels: int,
        num_params: int,
    ) -> None:
        """Write the next pixels of some slots and move their positions; a finished image stays where it is."""
        from raypixel.sampling.walker import walk

        maps = memory.flat.new_zeros((0, 0, 0, 0)) if condition is None else condition
        arrays = tuple(
            each.numpy() for each in (memory.flat, x, observed, noise, temperature, maps, recorded)
        )

        def run(part: NDArray[np.int64]) -> None:
            walk(
                part, rows, columns, num_pixels, self._tables, self._weights, self._scan, arrays,
                num_levels, num_params,
            )  # fmt: skip

        num_threads = min(torch.get_num_threads(), len(slots))
        parts = [slots[thread::num_threads] for thread in range(num_threads)]
        if num_threads == 1:
            run(slots)
            return
        others = [_pool(num_threads - 1).submit(run, part) for part in parts[1:]]
        run(parts[0])
        for other in others:
            other.result()

    def _add(self, op: Op) -> None:
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
        self._taps += [self._tap(tap) for tap in taps]
        first_plus = len(self._taps)
        self._taps += [self._tap(tap) for tap in pluses]
        self._ops.append([kind, rectifies, bias, weight, first, len(taps), first_plus, len(pluses)])

    def _put(self, numbers: Tensor) -> int:
        offset = self._offset
        self._numbers.append(numbers)
        self._offset += numbers.numel()
        return offset

    def _tap(self, tap: Tap) -> list[int]:
        plane = tap.plane
        columns = padded_width(plane, self._width) if plane.kind == "row" else 0
        offset = self._memory.offsets[self._memory.index[plane]]
        return [
            offset, plane.rows, columns, plane.left, plane.size, tap.row, tap.column, tap.start, tap.stop,
            plane.size if columns else 0,
        ]  # fmt: skip


@cache
def _pool(num_threads: int) -> ThreadPoolExecutor:
    """Return threads that are kept: a server asks for one pixel at a time."""
    return ThreadPoolExecutor(num_threads, thread_name_prefix="raypixel-sampling")


def _padded(weight: Tensor) -> Tensor:
    """Fill columns up with zeros to whole vectors."""
    return torch.nn.functional.pad(weight, (0, -weight.shape[1] % LANES))
