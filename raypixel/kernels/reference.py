"""Plain PyTorch recurrences of PixelRNN: any device, any floating type, gradients by autograd.

These are the definitions. Every faster implementation in this package is held to them by tests, and
they are the "plain autograd loop" that `benchmarks/recurrence.py` measures against.

Both recurrences read the four pre-activations of a cell in the order output, forget, input, content
(o, f, i, g), add the state-to-state terms of its neighbours, and apply

    o, f, i = sigmoid(...)    g = tanh(...)
    c = f * c_previous + i * g
    h = o * tanh(c)

Reference: van den Oord et al. 2016a, sec. 3.1 (Row LSTM), sec. 3.2 (Diagonal BiLSTM), eq. 3.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

Flips = tuple[bool, ...] | None
"""Which directions of a Diagonal LSTM read rows from right to left; None stands for a Row LSTM."""


def skew(x: Tensor) -> Tensor:
    """Shift row r of each map right by r columns, so that a diagonal becomes a column.

    Args:
        x: Maps, (N, C, H, W).

    Returns:
        Skewed maps, (N, C, H, W + H - 1), zero where no pixel falls.

    Reference: van den Oord et al. 2016a, sec. 3.2, fig. 3.
    """
    height, width = x.shape[-2:]
    # Rows of length W + H, read as rows of length W + H - 1, begin one column later each time.
    padded = F.pad(x, (0, height)).flatten(-2)
    return padded[..., : height * (width + height - 1)].unflatten(-1, (height, -1))


def unskew(x: Tensor) -> Tensor:
    """Undo `skew`.

    Args:
        x: Skewed maps, (N, C, H, W + H - 1).

    Returns:
        Maps, (N, C, H, W).
    """
    height = x.shape[-2]
    width = x.shape[-1] - height + 1
    padded = F.pad(x.flatten(-2), (0, height))
    return padded.unflatten(-1, (height, width + height))[..., :width]


def flip(maps: Tensor, flips: Flips) -> Tensor:
    """Return maps (N, D, C, H, W) with the columns of some directions reversed."""
    if flips is None or not any(flips):
        return maps
    directions = zip(maps.unbind(1), flips, strict=True)
    return torch.stack([m.flip(-1) if is_flipped else m for m, is_flipped in directions], dim=1)


def hidden_states(
    input_to_state: Tensor,
    weights: Tensor,
    initial_hidden: Tensor,
    initial_cell: Tensor,
    *,
    flips: Flips,
) -> Tensor:
    """Return the hidden states, (N, D, h, H, W); arguments are those of `raypixel.kernels._run`."""
    if flips is None:
        return _row_lstm(input_to_state[:, 0], weights[0], initial_hidden[0], initial_cell[0])[
            :, None
        ]
    states = []
    for direction, maps in enumerate(flip(input_to_state, flips).unbind(1)):
        weight_left, weight_up = weights[direction].chunk(2, dim=-1)
        initial = (initial_hidden[direction, :, None], initial_cell[direction, :, None])  # (h, 1)
        states.append(_diagonal_lstm(maps, weight_left, weight_up, *initial))
    return flip(torch.stack(states, dim=1), flips)


def _diagonal_lstm(
    input_to_state: Tensor,
    weight_left: Tensor,
    weight_up: Tensor,
    initial_hidden: Tensor,
    initial_cell: Tensor,
) -> Tensor:
    """Return the hidden states from left to right, one column of the skewed map after another."""
    num_images, _, height, _ = input_to_state.shape
    hidden = initial_hidden.expand(num_images, -1, height)  # (N, h, H)
    cell = initial_cell.expand(num_images, -1, height)
    rows = torch.arange(height, device=input_to_state.device)
    states = []
    for diagonal_index, column in enumerate(skew(input_to_state).unbind(-1)):  # (N, 4h, H)
        above = torch.cat([initial_hidden.expand(num_images, -1, 1), hidden[..., :-1]], dim=-1)
        gates = column + weight_left @ hidden + weight_up @ above  # (N, 4h, H)
        hidden, cell = _lstm_cell(gates, cell)
        states.append(hidden)
        if diagonal_index < height:
            # Rows below the diagonal have not entered the image: they keep the initial state.
            has_entered = rows <= diagonal_index
            hidden = torch.where(has_entered, hidden, initial_hidden)
            cell = torch.where(has_entered, cell, initial_cell)
    return unskew(torch.stack(states, dim=-1))


def _row_lstm(
    input_to_state: Tensor, weight: Tensor, initial_hidden: Tensor, initial_cell: Tensor
) -> Tensor:
    """Return the hidden states (N, h, H, W), one row after another."""
    num_images, _, _, width = input_to_state.shape
    kernel = weight.unflatten(-1, (3, -1)).mT  # (4h, h, 3)
    hidden = initial_hidden[:, None].expand(num_images, -1, width)  # (N, h, W)
    cell = initial_cell[:, None].expand(num_images, -1, width)
    states = []
    for line in input_to_state.unbind(-2):  # (N, 4h, W)
        hidden, cell = _lstm_cell(line + F.conv1d(hidden, kernel, padding=1), cell)
        states.append(hidden)
    return torch.stack(states, dim=-2)


def _lstm_cell(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Return the next hidden and cell states; gates (N, 4h, L), cell (N, h, L)."""
    output, forget, admit, content = gates.chunk(4, dim=1)
    cell = forget.sigmoid() * cell + admit.sigmoid() * content.tanh()
    return output.sigmoid() * cell.tanh(), cell
