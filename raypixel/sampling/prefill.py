"""Prefill: a plan run over a block of rows whose levels are known, in one pass wherever nothing recurs.

An operation that reads a plane waits for all that write it. Operations that wait for each other in a circle are a
recurrence, a state that reads the states above it: they run row by row, and column by column where they scan.
Everything else runs once, over all rows and columns; so do those inputs of a recurrence that are not its own states.
"""

from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raypixel.nn.plan import EVERYWHERE, Attention, Cell, Gate, Linear, Op, Phase, Plan, Plane, Tap
from raypixel.sampling.interpreter import Interpreter, Positions


@dataclass(frozen=True)
class _Unit:
    """An operation and how a row of it is run.

    Attributes:
        op: The operation.
        batch: Units with the same number share their loop over columns.
        order: Of the columns; "parallel" for all at once.
        skips_first: Not run for the first row.
        phase: In which rows and columns.
    """

    op: Op
    batch: int
    order: str = "parallel"
    skips_first: bool = False
    phase: Phase = EVERYWHERE


class Schedule:
    """In which order, and how, a plan's operations run over a block of rows.

    Attributes:
        scratch: Planes beside the plan's own.
    """

    def __init__(self, plan: Plan) -> None:
        self.scratch: list[Plane] = []
        self._width = plan.width
        units = [
            _Unit(op, number, row_pass.order, row_pass.skips_first, row_pass.phase)
            for number, row_pass in enumerate(plan.passes)
            for op in row_pass.ops
        ]
        units += [
            _Unit(
                step.op,
                -1 - step.scans,
                "rightwards" if step.scans else "parallel",
                phase=step.phase,
            )
            for step in (*plan.steps, *plan.ends)
            if not step.is_output
        ]
        waits = _waits(units)
        self._parts: list[tuple[list[_Unit], bool]] = []
        done: set[int] = set()
        for number in np.argsort(waits.sum(1), kind="stable").tolist():
            if number in done:
                continue
            circle = np.flatnonzero(waits[number] & waits[:, number]).tolist()
            done.update(circle or [number])
            if circle:
                self._add_recurrence([units[each] for each in circle])
            else:
                self._parts.append(([units[number]], False))

    def run(self, block: Interpreter, num_rows: int) -> None:
        """Fill a block whose levels are written."""
        for units, recurs in self._parts:
            if not recurs:
                (unit,) = units
                where = Positions(slice(None), slice(int(unit.skips_first), num_rows), None)
                rows = replace(where, phase=unit.phase).rows_of_block()
                if rows:
                    block.run([unit.op], where, unit.phase)
                continue
            for row in range(num_rows):
                for (_, order), part in groupby(units, key=lambda unit: (unit.batch, unit.order)):
                    ops = [unit.op for unit in part if row or not unit.skips_first]
                    self._run_row(block, ops, order=order, where=Positions(slice(None), row))

    def _run_row(self, block: Interpreter, ops: list[Op], *, order: str, where: Positions) -> None:
        if order == "parallel":
            block.run(ops, where)
            return
        columns = range(self._width)
        for column in reversed(columns) if order == "leftwards" else columns:
            block.run(ops, replace(where, column=column))

    def _add_recurrence(self, units: list[_Unit]) -> None:
        own = {tap.plane for unit in units for tap in _targets(unit.op)}
        rest = []
        for unit in units:
            early, late = self._split(unit.op, own)
            if early is not None:
                self._parts.append(([replace(unit, op=early, order="parallel")], False))
            rest.append(replace(unit, op=late))
        self._parts.append((rest, True))

    def _split(self, op: Op, own: set[Plane]) -> tuple[Op | None, Op]:
        """Take the part of a product that reads nothing of a recurrence's own planes out of it."""
        if not isinstance(op, Linear) or all(tap.plane in own for tap in op.taps):
            return None, op
        sizes = [tap.stop - tap.start for tap in op.taps]
        parts = list(zip(op.taps, op.weight.split(sizes), strict=True))
        early = [part for part in parts if part[0].plane not in own]
        late = [part for part in parts if part[0].plane in own]
        given = Plane(op.weight.shape[1], "row")
        self.scratch.append(given)
        first = replace(_reading(op, early), target=given.at(), plus=())
        return first, replace(_reading(op, late), bias=None, plus=(*op.plus, given.at()))


def _reading(op: Linear, parts: list[tuple[Tap, Tensor]]) -> Linear:
    """Return a product with these inputs only."""
    none = op.weight.new_zeros(0, op.weight.shape[1])
    taps = tuple(tap for tap, _ in parts)
    return replace(op, taps=taps, weight=torch.cat([none, *(weight for _, weight in parts)]))


def _targets(op: Op) -> tuple[Tap, ...]:
    return (op.hidden, op.cell) if isinstance(op, Cell) else (op.target,)


def _sources(op: Op) -> tuple[Tap, ...]:
    if isinstance(op, Linear):
        return (*op.taps, *op.plus)
    if isinstance(op, Attention):
        return (op.query, op.keys, op.values)
    if isinstance(op, Cell):
        return (op.gates, op.previous)
    plus = op.plus if isinstance(op, Gate) else None
    return (op.source,) if plus is None else (op.source, plus)


def _waits(units: list[_Unit]) -> NDArray[np.bool_]:
    """Return which operation waits for which, over any number of others."""
    written = [{tap.plane for tap in _targets(unit.op)} for unit in units]
    read = [{tap.plane for tap in _sources(unit.op)} for unit in units]
    waits = np.array([[bool(own & other) for other in written] for own in read])
    while True:
        further = waits | ((waits.astype(np.float32) @ waits.astype(np.float32)) > 0)
        if (further == waits).all():
            return waits
        waits = further
