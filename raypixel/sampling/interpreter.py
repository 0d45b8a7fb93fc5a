"""Run a plan in PyTorch: a batch of images at once, on any device and in any floating type.

Images may stand at different positions: then rows and columns are index tensors. All at one position is the fast path:
plain slices, one matrix product for each operation, nothing read back from the device.
"""

import math
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from raypixel.nn.plan import (
    EVERYWHERE,
    Attention,
    Cell,
    Elu,
    Gate,
    Linear,
    Norm,
    Op,
    Phase,
    Plane,
    Step,
    Tap,
)
from raypixel.sampling.planes import Planes


@dataclass(frozen=True)
class Positions:
    """Positions of some images: one for all, one for each, a whole row, or, in a block, many whole rows.

    Attributes:
        slots: Which images; a slice, or (M,) int64.
        row: A number for all, (M,) int64, or a slice of a block's rows.
        column: A number for all, (M,) int64, or None for all columns of the row.
        phase: Of these, the positions that count. Images whose position is not in it are computed, and keep what they have.
    """

    slots: slice | Tensor
    row: int | Tensor | slice
    column: int | Tensor | None = None
    phase: Phase = EVERYWHERE
    _indices: dict[tuple[int, ...], Tensor] = field(default_factory=dict, init=False)

    def within(self, phase: Phase) -> "Positions | None":
        """Return those of the positions that are in a phase; None if it is plain that there are none."""
        if phase is self.phase:
            return self
        for own, first in ((self.row, phase.row), (self.column, phase.column)):
            if isinstance(own, int) and own % phase.every != first:
                return None
        found = replace(self, phase=phase)
        found._indices.update(self._indices)
        return found

    @property
    def is_partial(self) -> bool:
        """Whether some images may stand outside of the phase."""
        return self.phase.every > 1 and any(
            isinstance(each, Tensor) for each in (self.row, self.column)
        )

    def is_in_phase(self) -> Tensor:
        """Return which images stand in the phase, (M,)."""
        held = [
            own % self.phase.every == first
            for own, first in ((self.row, self.phase.row), (self.column, self.phase.column))
            if isinstance(own, Tensor)
        ]
        return held[0] if len(held) == 1 else held[0] & held[1]

    def ring_row(self, up: int, num_rows: int, scale: int) -> int | Tensor:
        """Return where the row so many rows up lies in a ring of a scale; index tensors are computed once."""
        assert not isinstance(self.row, slice)
        if isinstance(self.row, int):
            return (self.row // scale - up) % num_rows
        key = up, num_rows, scale
        if key not in self._indices:
            row = self.row if scale == 1 else self.row // scale
            self._indices[key] = (row - up) % num_rows
        return self._indices[key]

    def kept_column(self, offset: int, scale: int) -> int | Tensor:
        """Return the column of a scale plus an offset; index tensors are computed once."""
        assert self.column is not None
        if isinstance(self.column, int):
            return self.column // scale + offset
        key = offset, scale
        if key not in self._indices:
            self._indices[key] = (self.column if scale == 1 else self.column // scale) + offset
        return self._indices[key]

    def num_columns(self, width: int) -> int:
        """Return how many columns of a whole row are in the phase."""
        return len(range(self.phase.column, width, self.phase.every))

    def rows_of_block(self) -> range:
        """Return the rows of a block that are in the phase."""
        assert isinstance(self.row, slice)
        behind = (self.phase.row - self.row.start) % self.phase.every
        return range(self.row.start + behind, self.row.stop, self.phase.every)


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
                self.run(row_pass.ops, where, row_pass.phase)
                continue
            for column in reversed(range(self.plan.width)):
                self.run(row_pass.ops, replace(where, column=column))

    def params(self, where: Positions, group: int) -> Tensor:
        """Run the sub-step of a colour group; return the parameters' maps so far, (M, maps)."""
        self._run_steps(self._programs[group], where)
        return self._read(self.plan.params.at(), where)

    def end(self, where: Positions) -> None:
        """Compute what reads the levels of the position themselves."""
        self._run_steps(self.plan.ends, where)

    def _run_steps(self, steps: list[Step], where: Positions) -> None:
        for step in steps:
            self.run((step.op,), where, step.phase)

    def write(
        self, plane: Plane, where: Positions, value: Tensor, channel: int | None = None
    ) -> None:
        """Write a plane's channels, or one of them, at positions."""
        stop = plane.size if channel is None else channel + 1
        self._write(plane.at(0, 0, channel or 0, stop), where, value)

    def run(
        self, ops: "tuple[Op, ...] | list[Op]", where: Positions, phase: Phase = EVERYWHERE
    ) -> None:
        """Run operations at those positions that are in a phase, one after another."""
        within = where.within(phase)
        if within is None:
            return
        where = within
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
                gated = (content if op.is_linear else content.tanh()) * opening.sigmoid()
                if op.plus is not None:
                    gated = gated + self._read(op.plus, where)
                self._write(op.target, where, gated)
            elif isinstance(op, Elu):
                x = self._read(op.source, where)
                if op.target.stop - op.target.start > x.shape[-1]:
                    x = torch.cat([x, -x], dim=-1)
                self._write(op.target, where, F.elu(x))
            elif isinstance(op, Attention):
                self._write(op.target, where, self._attention(op, where))
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

    def _attention(self, op: Attention, where: Positions) -> Tensor:
        query = self._read(op.query, where).unflatten(-1, (op.num_heads, -1))  # (M, .., heads, q)
        keys, values = (
            self.planes[tap.plane][where.slots, ..., tap.start : tap.stop].unflatten(
                -1, (op.num_heads, -1)
            )  # (M, rows, columns, heads, ..)
            for tap in (op.keys, op.values)
        )
        kept, width = op.keys.plane.rows, self.plan.width
        columns = torch.arange(width, device=keys.device)
        if isinstance(where.row, slice):  # a block of rows, each of which sees those kept above it
            keys, values = keys[:, : where.row.stop], values[:, : where.row.stop]
            rows = torch.arange(where.row.stop, device=keys.device)
            age = (rows[where.row, None, None, None] - rows[:, None]).expand(-1, width, -1, width)
            own_column = columns[:, None, None]
        else:
            row, own = where.row, where.column
            assert own is not None
            rows = torch.arange(kept, device=keys.device)
            if isinstance(row, Tensor):
                row, own = row[:, None, None], torch.as_tensor(own)[:, None, None]
            age = (row - rows[:, None]) % kept  # (rows, 1), or (M, rows, 1): of what the ring holds
            age = torch.where(age <= row, age, -1)  # a row above the image
            own_column = own  # type: ignore[assignment]
        is_seen = (age > 0) & (age < kept) | (age == 0) & (columns < own_column)
        is_seen = is_seen.expand(*is_seen.shape[:-1], width).flatten(-2)  # (.., keys)
        keys, values = keys.flatten(1, 2), values.flatten(1, 2)
        if isinstance(where.row, slice):
            scores = torch.einsum("mrchq,mkhq->mrchk", query, keys)
            is_seen = is_seen[:, :, None]
        else:
            scores = torch.einsum("mhq,mkhq->mhk", query, keys)
            is_seen = is_seen[..., None, :]
        scores = scores.masked_fill(~is_seen, -math.inf) / math.sqrt(query.shape[-1])
        weights = scores.softmax(-1).masked_fill(~is_seen, 0.0)  # of no position at all: zeros
        return torch.einsum("m...hk,mkhv->m...hv", weights, values).flatten(-2)

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
                value = value[:, None].expand(-1, where.num_columns(self.plan.width), -1)
            if isinstance(where.row, slice):
                value = value[:, None].expand(-1, len(where.rows_of_block()), -1, -1)
            return value
        return self.planes[plane][self._at(tap, where)]

    def _write(self, tap: Tap, where: Positions, value: Tensor) -> None:
        plane = tap.plane
        if plane.kind != "cell" or self.planes.block_rows:
            at = self._at(tap, where)
            if where.is_partial:
                value = self._only_in_phase(where, value, self.planes[plane][at])
            self.planes[plane][at] = value
        elif value.shape[-1] == plane.size:
            before = self._cells.get(plane)
            if where.is_partial and before is not None and before.shape == value.shape:
                value = self._only_in_phase(where, value, before)
            self._cells[plane] = value
        else:
            if tap.start == 0:  # the first colour group, so a new position
                self._cells[plane] = value.new_zeros(*value.shape[:-1], plane.size)
            self._cells[plane][..., tap.start : tap.stop] = value

    def _only_in_phase(self, where: Positions, value: Tensor, before: Tensor) -> Tensor:
        """Return the value of images whose position is in the phase, of others what they had."""
        held = where.is_in_phase().view(-1, *[1] * (value.dim() - 1))
        return torch.where(held, value, before)

    def _at(
        self, tap: Tap, where: Positions
    ) -> tuple[slice | Tensor, int | slice | Tensor, int | slice | Tensor, slice]:
        plane = tap.plane
        if plane.kind == "image":
            return where.slots, 0, 0, slice(tap.start, tap.stop)
        step = where.phase.every // plane.scale
        row: int | slice | Tensor
        if isinstance(where.row, slice):
            rows = where.rows_of_block()
            start = rows.start // plane.scale - tap.row
            row = self._block(range(start, start + step * len(rows), step), plane)
        else:
            row = where.ring_row(tap.row, self.planes[plane].shape[1], plane.scale)
        column: int | slice | Tensor
        if where.column is None:
            first = plane.left + where.phase.column // plane.scale + tap.column
            count = where.num_columns(self.plan.width)
            column = slice(first, first + (count - 1) * step + 1, step)
        else:
            column = where.kept_column(plane.left + tap.column, plane.scale)
        return where.slots, row, column, slice(tap.start, tap.stop)

    def _block(self, rows: range, plane: Plane) -> slice | Tensor:
        """Return where rows of a block lie: those above the image at its end."""
        if rows.start >= 0:
            return slice(rows.start, rows.stop, rows.step)
        view = self.planes[plane]
        return torch.arange(rows.start, rows.stop, rows.step, device=view.device) % view.shape[1]
