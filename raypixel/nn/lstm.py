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

from raypixel.nn.kernels import diagonal_bilstm, diagonal_lstm, row_lstm
from raypixel.nn.masked import MaskedConv2d
from raypixel.nn.norm import GroupedLayerNorm

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
        if self.num_directions == 1:
            return diagonal_lstm(
                input_to_state,
                self.weight_left[0],
                weight_up=self.weight_up[0],
                initial_hidden=self.initial_hidden[0],
                initial_cell=self.initial_cell[0],
            )
        states = diagonal_bilstm(
            input_to_state.unflatten(1, (2, -1)),
            self.weight_left,
            weight_up=self.weight_up,
            initial_hidden=self.initial_hidden,
            initial_cell=self.initial_cell,
        )  # (N, 2, h, H, W)
        rightwards, leftwards = states.unbind(1)
        return rightwards + F.pad(leftwards, (0, 0, 1, -1))


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
        norm: Literal["none", "layer"],
        use_residual: bool,
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
            condition_channels: Maps of a conditioning input, 0 for none.
            level_channels: Channels of the image for the right-to-left gates, 0 for none.
        """
        super().__init__()
        self.use_residual = use_residual
        self.norm = GroupedLayerNorm(wide) if norm == "layer" else nn.Identity()
        gates = narrow.repeat(4 * recurrence.num_directions)
        self.input_to_state = MaskedConv2d(
            wide, gates, kernel_size=kernel_size, mask_type="B", rows_above=0
        )
        self.condition_to_state = _unmasked(condition_channels, len(gates))
        self.levels_to_state = _unmasked(level_channels, 4 * len(narrow))
        self.recurrence = recurrence
        self.state_to_output = MaskedConv2d(narrow, wide, kernel_size=1, mask_type="B")

    def forward(
        self, x: Tensor, condition: Tensor | None = None, *, levels: Tensor | None = None
    ) -> Tensor:
        """Map (N, 2h, H, W) to the same shape.

        Args:
            x: Features, (N, 2h, H, W).
            condition: Conditioning maps, (N, condition_channels, H, W), if the block was made for them.
            levels: Scaled image, (N, level_channels, H, W), if the block was made for it.
        """
        gates = self.input_to_state(self.norm(x))  # (N, directions * 4h, H, W)
        if self.condition_to_state is not None:
            gates = gates + self.condition_to_state(condition)
        if self.levels_to_state is not None:
            own = self.levels_to_state(levels)  # (N, 4h, H, W), for the second direction
            gates = gates + F.pad(own, (0, 0, 0, 0, own.shape[1], 0))
        y: Tensor = self.state_to_output(self.recurrence(gates))
        return x + y if self.use_residual else y


def _unmasked(in_channels: int, out_channels: int) -> nn.Conv2d | None:
    return nn.Conv2d(in_channels, out_channels, 1, bias=False) if in_channels else None
