"""Run a plan in compiled code: all operations of a pixel, and of many pixels, in one call.

For few images the cost of a step in PyTorch is not arithmetic but calls: 50 operations of 10 microseconds for a pixel. Here
a plan is flattened into two arrays, the operations (integers) and their weights, and one function, compiled once for
all models, walks them. It knows no architecture: it has the operations of `raypixel.nn.plan`.
Images of a thread step together, wherever each stands, and a row that begins is computed for all its columns together: so
a product is a small matrix product, whose weights lie in blocks of as many outputs as a vector has lanes. The additions of
an output have one order, so that an image has the same bits alone, in any batch and with any number of threads.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raypixel.nn.likelihoods import PerDimension
from raypixel.nn.mixtures import DiscretizedLogisticMixture
from raypixel.nn.plan import (
    Attention,
    Cell,
    Elu,
    Gate,
    Linear,
    Norm,
    Op,
    Phase,
    Stage,
    Step,
    Tap,
)
from raypixel.sampling.planes import Planes, padded_width
from raypixel.sampling.stages import InterpretedStage, Slots

# an operation: kind, rectifies (a gate: is linear), bias offset or -1, weight offset, first tap, taps, first plus, pluses;
# its phase: every - 1 (every is a power of 2), row, column; heads of attention
OP_FIELDS = 12
LINEAR, NORM, GATE, CELL, ELU, ATTENTION = range(6)
# a tap: offset of the plane, ring of rows, columns kept (0: not by column), columns at the left, size, row, column, start, stop,
# numbers from one column to the next (0: not by column), binary logarithm of the plane's scale
TAP_FIELDS = 11
# numbers in a vector of the compiled code
LANES = 16


def is_available(dtype: torch.dtype) -> bool:
    """Whether compiled code can be made for a floating type here."""
    return dtype in (torch.float32, torch.float64) and find_spec("numba") is not None


class Tables:
    """A stage flattened for compiled code.

    Attributes:
        plan: Operations, taps, (passes: first and last operation, leftwards, skips the first row), (sub-steps: first and last
            operation), (ends: the same), and the taps of levels, parameters and condition, -1 for none.
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
            [
                *self._add([(op, row_pass.phase) for op in row_pass.ops]),
                row_pass.order == "leftwards",
                row_pass.skips_first,
            ]
            for row_pass in plan.passes
        ]
        programs = [self._add_steps(plan.program(group)) for group in range(plan.num_groups)]
        ends = self._add_steps(plan.ends)
        special = []
        for plane in (plan.levels, plan.params, plan.condition):
            special.append(-1 if plane is None else len(self._taps))
            self._taps += [] if plane is None else [self._tap(plane.at())]
        self.plan = (
            np.array(self._ops, dtype=np.int64).reshape(-1, OP_FIELDS),
            np.array(self._taps, dtype=np.int64).reshape(-1, TAP_FIELDS),
            np.array(passes, dtype=np.int64).reshape(-1, 4),
            np.array(programs, dtype=np.int64).reshape(-1, 2),
            np.array(ends, dtype=np.int64),
            *special,
        )
        numbers = [part.detach().cpu().flatten() for part in self._numbers]
        weights = torch.cat(numbers) if numbers else torch.zeros(0)
        self.weights = weights.to(planes.flat.dtype).numpy()
        given = np.zeros((0, 0), np.bool_) if stage.given is None else stage.given.numpy()
        self.scan = (stage.height, plan.width, stage.stride, first_dimension, given)

    def _add_steps(self, steps: list[Step]) -> list[int]:
        return self._add([(step.op, step.phase) for step in steps])

    def _add(self, ops: list[tuple[Op, Phase]]) -> list[int]:
        """Append operations with their phases; return the first and the one after the last."""
        start = len(self._ops)
        for op, phase in ops:
            first = len(self._taps)
            bias, weight, rectifies, num_heads = -1, 0, False, 0
            taps: tuple[Tap, ...]
            pluses: tuple[Tap, ...] = ()
            if isinstance(op, Linear):
                kind, taps, pluses, rectifies = LINEAR, (op.target, *op.taps), op.plus, op.relu
                weight = self._put(_blocks(op.weight))
                bias = -1 if op.bias is None else self._put(op.bias)
            elif isinstance(op, Norm):
                kind, taps = NORM, (op.target, op.source)
                weight, bias = self._put(op.weight), self._put(op.bias)
                self._put(torch.tensor([op.eps], dtype=torch.float64))
            elif isinstance(op, Gate):
                kind, taps, rectifies = GATE, (op.target, op.source), op.is_linear
                pluses = () if op.plus is None else (op.plus,)
            elif isinstance(op, Elu):
                kind, taps = ELU, (op.target, op.source)
            elif isinstance(op, Attention):
                kind, taps = ATTENTION, (op.target, op.query, op.keys, op.values)
                num_heads = op.num_heads
            else:
                assert isinstance(op, Cell)
                kind, taps = CELL, (op.hidden, op.cell, op.gates, op.previous)
            self._taps += [self._tap(tap) for tap in (*taps, *pluses)]
            counts = [first, len(taps), first + len(taps), len(pluses)]
            when = [phase.every - 1, phase.row, phase.column]
            self._ops.append([kind, rectifies, bias, weight, *counts, *when, num_heads])
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
            plane.scale.bit_length() - 1,
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
        """Write the next pixels of images that stand in this stage; threads share them out."""
        from raypixel.sampling.compiled_plan import advance

        held, tables = self.slots, self.tables
        condition = self.condition
        if condition is None:
            condition = self.planes.flat.new_zeros((0, 0, 0, 0))
        tensors = (self.planes.flat, held.x, held.observed, held.noise, held.temperature)
        likelihood, params = held.likelihood, held.params
        if isinstance(likelihood, PerDimension):
            sizes = (held.num_levels, likelihood.num_params, 0)
        else:
            assert isinstance(likelihood, DiscretizedLogisticMixture)
            sizes = (held.num_levels, 0, likelihood.num_mixtures)
            params = params[:, :, None].expand(-1, -1, held.x.shape[1], -1, -1)  # of every channel
        arrays = tuple(each.numpy() for each in (*tensors, condition, params))

        def run(part: NDArray[np.int64]) -> None:
            advance(
                part, held.row, held.column, num_pixels,
                tables.plan, tables.weights, tables.scan, arrays, *sizes,
            )  # fmt: skip

        num_threads = min(torch.get_num_threads(), len(slots))
        if num_threads == 1:
            run(slots)
            return
        # contiguous: for strided arrays all would be compiled again
        parts = [slots[thread::num_threads].copy() for thread in range(num_threads)]
        others = [_pool(num_threads - 1).submit(run, part) for part in parts[1:]]
        run(parts[0])
        for other in others:
            other.result()


@cache
def _pool(num_threads: int) -> ThreadPoolExecutor:
    """Return threads that are kept: a server asks for one pixel at a time."""
    return ThreadPoolExecutor(num_threads, thread_name_prefix="raypixel-sampling")


def _blocks(weight: Tensor) -> Tensor:
    """Fill columns up with zeros to whole vectors; lay out block after block of them, (columns / LANES, rows, LANES)."""
    padded = torch.nn.functional.pad(weight, (0, -weight.shape[1] % LANES))
    return padded.unflatten(1, (-1, LANES)).transpose(0, 1)
