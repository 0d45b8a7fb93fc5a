"""Run a plan in PyTorch: a batch of images at once, on any device and in any floating type.

Images may stand at different positions: then rows and columns are index tensors. All at one position is the fast path:
plain slices, one matrix product for each operation, nothing read back from the device.
"""

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from raypixel.nn.plan import Cell, Gate, Linear, Norm, Op, Plane, Tap
from raypixel.sampling.planes import Planes


@dataclass(frozen=True)
class Positions:
    """Positions of some images: one for all, one for each, a whole row, or, in a block, many whole rows.

    Attributes:
        slots: Which images; a slice, or (M,) int64.
        row: A number for all, (M,) int64, or a slice of a block's rows.
        column: A number for all, (M,) int64, or None for all columns of the row.
    """

    slots: slice | Tensor
    row: int | Tensor | slice
    column: int | Tensor | None = None
    _rows: dict[tuple[int, int], Tensor] = field(default_factory=dict, init=False)
    _columns: dict[int, Tensor] = field(default_factory=dict, init=False)

    def ring_row(self, up: int, num_rows: int) -> int | Tensor:
        """Return where the row so many rows up lies in a ring; index tensors are computed once."""
        assert not isinstance(self.row, slice)
        if isinstance(self.row, int):
            return (self.row - up) % num_rows
        key = up, num_rows
        if key not in self._rows:
            self._rows[key] = (self.row - up) % num_rows
        return self._rows[key]

    def kept_column(self, offset: int) -> int | Tensor:
        """Return the column plus an offset; index tensors are computed once."""
        assert self.column is not None
        if isinstance(self.column, int):
            return self.column + offset
        if offset not in self._columns:
            self._columns[offset] = self.column + offset
        return self._columns[offset]


class Interpreter:
    """A plan over the memory of a number of images."""

    def __init__(self, planes: Planes) -> None:
        self.planes = planes
        self.plan = plan = planes.plan
        self._programs = [plan.program(group) for group in range(plan.num_groups)]
        self._cells: dict[Plane, Tensor] = {}

    def begin_row(self, where: Positions, *, is_first: bool) -> None:
        """Compute what a row needs of the finished rows.

        Args:
            where: Rows that begin, all columns.
            is_first: They are the first rows of their images.
        """
        for row_pass in self.plan.passes:
            if row_pass.skips_first and is_first:
                continue
            if row_pass.order == "parallel":
                self.run(row_pass.ops, where)
                continue
            for column in reversed(range(self.plan.width)):
                self.run(row_pass.ops, replace(where, column=column))

    def params(self, where: Positions, group: int) -> Tensor:
        """Run the sub-step of a colour group; return the parameters so far, (M, C * P)."""
        self.run(self._programs[group], where)
        return self._read(self.plan.params.at(), where)

    def write(
        self, plane: Plane, where: Positions, value: Tensor, channel: int | None = None
    ) -> None:
        """Write a plane's channels, or one of them, at positions."""
        stop = plane.size if channel is None else channel + 1
        self._write(plane.at(0, 0, channel or 0, stop), where, value)

    def run(self, ops: "tuple[Op, ...] | list[Op]", where: Positions) -> None:
        """Run operations at positions, one after another."""
        for op in ops:
            if isinstance(op, Linear):
                self._write(op.target, where, self._linear(op, where))
            elif isinstance(op, Cell):
                output, forget, admit, content = self._read(op.gates, where).chunk(4, dim=-1)
                cell = forget.sigmoid() * self._read(op.previous, where)
                cell = cell + admit.sigmoid() * content.tanh()
                self._write(op.cell, where, cell)
                self._write(op.hidden, where, output.sigmoid() * cell.tanh())
            elif isinstance(op, Gate):
                content, opening = self._read(op.source, where).chunk(2, dim=-1)
                self._write(op.target, where, content.tanh() * opening.sigmoid())
            else:
                self._write(op.target, where, self._norm(op, where))

    def _norm(self, op: Norm, where: Positions) -> Tensor:
        x = self._read(op.source, where)
        return F.layer_norm(x, x.shape[-1:], op.weight, op.bias, op.eps)

    def _linear(self, op: Linear, where: Positions) -> Tensor:
        added = [self._read(tap, where) for tap in op.plus]
        if op.bias is not None:
            added.append(op.bias)
        if op.taps:
            parts = [self._read(tap, where) for tap in op.taps]
            x = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
            if op.relu:
                x = x.relu()
            is_flat = bool(added) and x.dim() == 2
            result = torch.addmm(added.pop(), x, op.weight) if is_flat else x @ op.weight
        else:
            result = added.pop()
        for other in added:
            result = result + other
        return result

    def _read(self, tap: Tap, where: Positions) -> Tensor:
        """Return channels at positions, (M, channels); of whole rows (M, columns, channels), in a block (M, rows, ...)."""
        plane = tap.plane
        if plane.kind == "cell" and not self.planes.block_rows:
            value = self._cells[plane][..., tap.start : tap.stop]
            if value.dim() == 3 and where.column is not None:
                value = value[:, where.column]
            return value
        if plane.kind == "image":
            value = self.planes[plane][where.slots, 0, 0, tap.start : tap.stop]
            if where.column is None:
                value = value[:, None].expand(-1, self.plan.width, -1)
            if isinstance(where.row, slice):
                num_rows = where.row.stop - where.row.start
                value = value[:, None].expand(-1, num_rows, -1, -1)
            return value
        return self.planes[plane][self._at(tap, where)]

    def _write(self, tap: Tap, where: Positions, value: Tensor) -> None:
        plane = tap.plane
        if plane.kind != "cell" or self.planes.block_rows:
            self.planes[plane][self._at(tap, where)] = value
        elif value.shape[-1] == plane.size:
            self._cells[plane] = value
        else:
            if tap.start == 0:  # the first colour group, so a new position
                self._cells[plane] = value.new_zeros(*value.shape[:-1], plane.size)
            self._cells[plane][..., tap.start : tap.stop] = value

    def _at(
        self, tap: Tap, where: Positions
    ) -> tuple[slice | Tensor, int | slice | Tensor, int | slice | Tensor, slice]:
        plane = tap.plane
        if plane.kind == "image":
            return where.slots, 0, 0, slice(tap.start, tap.stop)
        row: int | slice | Tensor
        if isinstance(where.row, slice):
            row = self._block(where.row.start - tap.row, where.row.stop - tap.row, plane)
        else:
            row = where.ring_row(tap.row, self.planes[plane].shape[1])
        column: int | slice | Tensor
        if where.column is None:
            first = plane.left + tap.column
            column = slice(first, first + self.plan.width)
        else:
            column = where.kept_column(plane.left + tap.column)
        return where.slots, row, column, slice(tap.start, tap.stop)

    def _block(self, start: int, stop: int, plane: Plane) -> slice | Tensor:
        """Return where rows of a block lie: those above the image at its end."""
        if start >= 0:
            return slice(start, stop)
        view = self.planes[plane]
        return torch.arange(start, stop, device=view.device) % view.shape[1]
