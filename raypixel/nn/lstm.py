"""The layers of PixelRNN: the two recurrences with their learned state, and the residual block around them.

A block maps 2h maps to 4h gates (input-to-state, masked), runs the recurrence (state-to-state) and returns from h to 2h
maps. The gates are o, f, i, g, each of them split by colour on its own, so that no colour group is cut.
State-to-state weights are not masked: they read other pixels, all of whose colours come earlier.

Reference: van den Oord et al. 2016a, sec. 3.1-3.3, eq. 3, fig. 3-5.
Unlike the paper, the right-to-left half of a first layer may read the levels of its own pixel (see `LSTMBlock`).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raypixel.kernels import diagonal_lstm, row_lstm
from raypixel.nn.dropout import Dropout
from raypixel.nn.masked import MaskedConv2d, unmasked
from raypixel.nn.norm import Normalization, emit_norm, make_norm
from raypixel.nn.plan import Cell, Linear, Plan, Plane, Tap, group_slices, in_group_order, pick
from raypixel.nn.stack import SideInputs

Direction = Literal["both", "left_to_right"]


class RowRecurrence(nn.Module):
    """Run each row from the row above: a cell reads the three hidden states above it and the cell state above it."""

    num_directions = 1

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.weight = nn.Parameter(torch.empty(4 * hidden_size, hidden_size, 3))
        self.initial_hidden = nn.Parameter(torch.zeros(hidden_size))
        self.initial_cell = nn.Parameter(torch.zeros(hidden_size))
        nn.init.uniform_(self.weight, -((3 * hidden_size) ** -0.5), (3 * hidden_size) ** -0.5)

    def forward(self, input_to_state: Tensor) -> Tensor:
        """Return hidden states (N, h, H, W) from gates (N, 4h, H, W)."""
        return row_lstm(
            input_to_state,
            self.weight,
            initial_hidden=self.initial_hidden,
            initial_cell=self.initial_cell,
        )

    def planes(self, plan: Plan) -> tuple[Plane, Plane]:
        """Add the hidden and the cell states to a plan."""
        hidden = plan.plane(self.hidden_size, above=self.initial_hidden.detach())
        return hidden, plan.plane(self.hidden_size, above=self.initial_cell.detach())

    def from_above(self, hidden: Plane, outputs: list[int]) -> tuple[tuple[Tap, ...], Tensor]:
        """Return what is read of the finished row, with its weights to the given gates."""
        taps = tuple(hidden.at(1, column) for column in (-1, 0, 1))
        return taps, torch.cat([pick(self.weight[:, :, k], outputs) for k in range(3)])

    def from_left(self, _hidden: Plane) -> tuple[Tap, Tensor] | None:
        """Return what is read of the current row, with its weights: nothing."""
        return None

    def previous(self, cell: Plane, start: int, stop: int) -> Tap:
        """Return the cell state before this one: that above."""
        return cell.at(1, 0, start, stop)


class DiagonalRecurrence(nn.Module):
    """Run along diagonals: a cell reads the hidden states of its left and upper neighbours, and the left cell state.

    In both directions, the right-to-left states are moved down by one row before they are added: a pixel then reads
    those of the row above, which hold nothing of its own row.
    """

    def __init__(self, hidden_size: int, direction: Direction) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.num_directions = 2 if direction == "both" else 1
        shape = (self.num_directions, 4 * hidden_size, hidden_size)
        self.weight_left = nn.Parameter(torch.empty(shape))
        self.weight_up = nn.Parameter(torch.empty(shape))
        self.initial_hidden = nn.Parameter(torch.zeros(self.num_directions, hidden_size))
        self.initial_cell = nn.Parameter(torch.zeros(self.num_directions, hidden_size))
        for weight in (self.weight_left, self.weight_up):
            nn.init.uniform_(weight, -((2 * hidden_size) ** -0.5), (2 * hidden_size) ** -0.5)

    def forward(self, input_to_state: Tensor) -> Tensor:
        """Return hidden states (N, h, H, W) from the gates of each direction in turn, (N, directions * 4h, H, W)."""
        states = diagonal_lstm(
            input_to_state.unflatten(1, (self.num_directions, -1)),
            self.weight_left,
            weight_up=self.weight_up,
            initial_hidden=self.initial_hidden,
            initial_cell=self.initial_cell,
        )  # (N, directions, h, H, W)
        if self.num_directions == 1:
            return states[:, 0]
        rightwards, leftwards = states.unbind(1)
        return rightwards + F.pad(leftwards, (0, 0, 1, -1))

    def planes(self, plan: Plan, direction: int = 0) -> tuple[Plane, Plane]:
        """Add the hidden and the cell states of a direction to a plan."""
        initial = self.initial_hidden.detach()[direction]
        hidden = plan.plane(self.hidden_size, above=initial, beside=initial)
        return hidden, plan.plane(self.hidden_size, beside=self.initial_cell.detach()[direction])

    def from_above(self, hidden: Plane, outputs: list[int]) -> tuple[tuple[Tap, ...], Tensor]:
        """Return what is read of the finished row, with its weights to the given gates."""
        return (hidden.at(1),), pick(self.weight_up[0], outputs)

    def from_left(self, hidden: Plane) -> tuple[Tap, Tensor] | None:
        """Return what is read of the current row, with its weights."""
        return hidden.at(0, -1), self.weight_left[0]

    def previous(self, cell: Plane, start: int, stop: int) -> Tap:
        """Return the cell state before this one: that to the left."""
        return cell.at(0, -1, start, stop)

    def emit_leftwards(self, plan: Plan, taps: list[Tap], weight: Tensor, bias: Tensor) -> Plane:
        """Append the right-to-left states of the row that was finished when a row begins.

        Args:
            plan: The plan.
            taps: What its gates read, one row up.
            weight: (inputs of all taps, 4h).
            bias: (4h,).

        Returns:
            The states, to be read one row up.
        """
        hidden, cell = self.planes(plan, 1)
        size, every = self.hidden_size, range(4 * self.hidden_size)
        given, gates = plan.plane(4 * size), plan.plane(4 * size)
        weight = torch.cat([weight, pick(self.weight_up[1], every)])
        start = Linear(given.at(), (*taps, hidden.at(2)), weight, bias)
        plan.over_row(start, skips_first=True)
        left = pick(self.weight_left[1], every)
        plan.over_row(
            Linear(gates.at(), (hidden.at(1, 1),), left, plus=(given.at(),)),
            Cell(hidden.at(1), cell.at(1), gates.at(), cell.at(1, 1)),
            order="leftwards",
            skips_first=True,
        )
        return hidden


class LSTMBlock(nn.Module):
    """Normalize, input-to-state 2h to 4h, recurrence, 1x1 h to 2h, plus input.

    With `level_channels`, the gates of the right-to-left direction also read the image itself at their own position,
    all colours of it. That is causal, since these states serve the next row. Without it the last pixel of the row above
    would be blind for most of a row: mask A keeps it out of every feature of its own row, and no path leads from the
    right end of the current row to its left.
    """

    def __init__(
        self,
        wide: Tensor,
        narrow: Tensor,
        *,
        recurrence: RowRecurrence | DiagonalRecurrence,
        kernel_size: int,
        norm: Normalization,
        use_residual: bool,
        dropout: float = 0.0,
        condition_channels: int = 0,
        level_channels: int = 0,
    ) -> None:
        """Make the block.

        Args:
            wide: Colour group of each of the 2h maps.
            narrow: Colour group of each of the h state features.
            recurrence: The state-to-state part.
            kernel_size: Odd width of the input-to-state convolution, one row high.
            norm: Layer normalization of the input per colour group, or none.
            use_residual: Add the block's input to its output.
            dropout: Probability with which training sets a hidden feature to zero, after the recurrence.
            condition_channels: Maps of a conditioning input, 0 for none.
            level_channels: Channels of the image for the right-to-left gates, 0 for none.
        """
        super().__init__()
        self.use_residual = use_residual
        self.norm = make_norm(norm, wide)
        gates = narrow.repeat(4 * recurrence.num_directions)
        self.input_to_state = MaskedConv2d(
            wide, gates, kernel_size=kernel_size, mask_type="B", rows_above=0
        )
        self.condition_to_state = unmasked(condition_channels, len(gates))
        self.levels_to_state = unmasked(level_channels, 4 * len(narrow))
        self.recurrence = recurrence
        self.dropout = Dropout(dropout)
        self.state_to_output = MaskedConv2d(narrow, wide, kernel_size=1, mask_type="B")

    def forward(self, x: Tensor, side: SideInputs) -> Tensor:
        """Map (N, 2h, H, W) to the same shape."""
        gates = self.input_to_state(self.norm(x))  # (N, directions * 4h, H, W)
        if self.condition_to_state is not None:
            gates = gates + self.condition_to_state(side.condition)
        if self.levels_to_state is not None:
            own = self.levels_to_state(side.levels)  # (N, 4h, H, W), for the second direction
            gates = gates + F.pad(own, (0, 0, 0, 0, own.shape[1], 0))
        y: Tensor = self.state_to_output(self.dropout(self.recurrence(gates)))
        return x + y if self.use_residual else y

    def emit(self, plan: Plan, x: Plane) -> Plane:
        """Append the block to a plan."""
        recurrence, size = self.recurrence, self.recurrence.hidden_size
        source = emit_norm(self.norm, plan, x)
        hidden, cell = recurrence.planes(plan)
        outputs = in_group_order(self.input_to_state.out_groups[: 4 * size], plan.num_groups)
        taps, weight = recurrence.from_above(hidden, outputs)
        if self.condition_to_state is not None:
            assert plan.condition is not None
            taps = (*taps, plan.condition.at())
            condition = self.condition_to_state.weight[: 4 * size, :, 0, 0]
            weight = torch.cat([weight, pick(condition, outputs)])
        above, gates = plan.plane(4 * size), plan.plane(4 * size, kind="cell")
        plan.over_row(Linear(above.at(), taps, weight))

        left = recurrence.from_left(hidden)
        parts = self.input_to_state.packed(plan, 4 * size)
        for group, (start, stop) in enumerate(
            group_slices(self.state_to_output.in_groups, plan.num_groups)
        ):
            op = self.input_to_state.at_position(
                plan,
                source,
                gates,
                group,
                num_outputs=4 * size,
                plus=(above.at(0, 0, *parts[group]),),
                also=left,
            )
            plan.step(op, group, scans=left is not None)
            states = (hidden.at(0, 0, start, stop), cell.at(0, 0, start, stop))
            previous = recurrence.previous(cell, start, stop)
            own_gates = gates.at(0, 0, *parts[group])
            plan.step(Cell(*states, own_gates, previous), group, scans=left is not None)

        plus = (x,) if self.use_residual else ()
        if recurrence.num_directions == 2:
            plus = (*plus, self._emit_leftwards(plan, source))
        return self.state_to_output.emit(plan, hidden, plus=plus)

    def _emit_leftwards(self, plan: Plan, source: Plane) -> Plane:
        """Append the right-to-left direction to a plan; return its part of the block's result."""
        recurrence = self.recurrence
        assert isinstance(recurrence, DiagonalRecurrence)
        first = 4 * recurrence.hidden_size
        gates = range(first, 2 * first)
        convolution = self.input_to_state
        weights = [pick((convolution.weight * convolution.mask)[:, :, 0, 0], gates)]
        taps = [source.at(1)]
        if self.condition_to_state is not None:
            assert plan.condition is not None
            taps.append(plan.condition.at(1))
            weights.append(pick(self.condition_to_state.weight[:, :, 0, 0], gates))
        if self.levels_to_state is not None:
            taps.append(plan.levels.at(1))
            weights.append(pick(self.levels_to_state.weight[:, :, 0, 0], range(first)))
        bias = convolution.bias.detach()[first:]
        leftwards = recurrence.emit_leftwards(plan, taps, torch.cat(weights), bias)
        out = self.state_to_output
        part = plan.plane(len(out.out_groups))
        weight = pick((out.weight * out.mask)[:, :, 0, 0], range(part.size))
        plan.over_row(Linear(part.at(), (leftwards.at(1),), weight), skips_first=True)
        return part
