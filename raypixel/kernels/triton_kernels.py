"""Recurrences on a GPU in float32, by Triton kernels that do a whole layer in one launch.

A loop over diagonals or rows of a small layer waits for its many launches. Here one program per
image and direction walks the image by itself (`triton_cells`): the Diagonal LSTM in raster-scan
order with weights in registers, the Row LSTM row by row with weights in the multiprocessor's cache.
Gates are kept, the backward pass walks back and writes their gradients, and the weight gradient is
one product at the end. The kernels compute in float32 throughout, not in TF32.

A hidden size is at most 64. The Diagonal LSTM's weights are 8 h^2 numbers: 32,768 at 64, half of a
multiprocessor's 65,536 registers; at 128 they would be twice the whole file. The Row LSTM's are
192 KiB at 64, an A100's level-one cache.

Verified in Triton's interpreter only (3.5 and 3.9), where programs have no threads: no GPU was at
hand. The kernels do compile for compute capabilities 7.5 to 12.0 with weights in registers and
barriers in place, but neither their results nor their speed on a GPU have been seen, and the size
up to which they are chosen is what fits, not what was measured to be faster.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from raypixel.kernels import triton_cells
from raypixel.kernels.reference import Flips, flip

# Pipelining would break the kernels. Fused multiply-add is asked for: Triton 3.9 warns otherwise.
_COMPILER_OPTIONS = {"num_stages": 1, "enable_fp_fusion": True}


@dataclass(frozen=True)
class _Neighbour:
    """Where a pixel's neighbour lies.

    `row` and `column` are its place in a bordered map, relative to (i, j); `rows` and `columns` are
    the pixels for which it is the learned initial state.
    """

    row: int
    column: int
    rows: slice
    columns: slice


_FIRST, _ALL = slice(0, 1), slice(None)
_DIAGONAL = (_Neighbour(1, 0, _ALL, _FIRST), _Neighbour(0, 1, _FIRST, _ALL))  # left, up
_ROW = (
    _Neighbour(0, 0, _FIRST, slice(1, None)),
    _Neighbour(0, 1, _FIRST, _ALL),
    _Neighbour(0, 2, _FIRST, slice(None, -1)),
)


def forward(
    input_to_state: Tensor,
    weights: Tensor,
    initial_hidden: Tensor,
    initial_cell: Tensor,
    *,
    flips: Flips,
    keeps: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the hidden states; keep gates, hidden and cell states."""
    num_images, num_directions, channels, height, width = input_to_state.shape
    size, is_row = channels // 4, flips is None
    x = _gates_to_pixels(input_to_state, flips)
    matrices = _interleave(weights, num_neighbours=3 if is_row else 2)
    gates = torch.empty_like(x)
    hidden, cell = (
        _bordered(initial, num_images, height, width, is_row=is_row)
        for initial in (initial_hidden, initial_cell)
    )
    grid = (num_images * num_directions,)
    tensors = (x, gates, hidden, cell, matrices)
    with torch.cuda.device_of(x):
        if is_row:
            options = _row_options(size, chunk=16)
            triton_cells.row_forward[grid](*tensors, height, width, **options)
        else:
            shape = (num_directions, height, width)
            triton_cells.diagonal_forward[grid](*tensors, *shape, **_diagonal_options(size))
    states = flip(hidden[:, :, 1:, 1 : width + 1].permute(0, 1, 4, 2, 3), flips)
    kept = (gates, hidden, cell, matrices) if keeps else ()
    return states.clone(memory_format=torch.contiguous_format), kept


def backward(
    hidden_gradient: Tensor, kept: tuple[Tensor, ...], *, flips: Flips
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of the four tensors."""
    gates, hidden, cell, matrices = kept
    num_images, num_directions, size, height, width = hidden_gradient.shape
    d_hidden = flip(hidden_gradient, flips).permute(0, 1, 3, 4, 2).contiguous()
    d_gates = torch.empty_like(gates)
    grid = (num_images * num_directions,)
    with torch.cuda.device_of(gates):
        if flips is None:
            d_cell = torch.empty_like(d_hidden)  # (N, 1, H, W, h)
            tensors = (gates, cell, d_hidden, d_gates, d_cell, matrices)
            options = _row_options(size, chunk=32)
            triton_cells.row_backward[grid](*tensors, height, width, **options)
            d_initial_cell = d_cell[:, :, 0].sum(dim=(0, 2))
        else:
            d_cell = d_hidden.new_empty(num_images, num_directions, height, size)
            tensors = (gates, cell, d_hidden, d_gates, d_cell, matrices)
            shape = (num_directions, height, width)
            triton_cells.diagonal_backward[grid](*tensors, *shape, **_diagonal_options(size))
            d_initial_cell = d_cell.sum(dim=(0, 2))
    neighbours = _ROW if flips is None else _DIAGONAL
    d_matrices = _weight_gradient(d_gates, hidden, neighbours)
    d_weights = d_matrices.unflatten(1, (size, 4)).transpose(1, 2).flatten(1, 2)
    d_initial_hidden = _initial_gradient(d_gates, matrices, neighbours)
    return _pixels_to_gates(d_gates, flips), d_weights, d_initial_hidden, d_initial_cell


def _diagonal_options(size: int) -> dict[str, int]:
    """Return the constants of a launch; 64, 32 and 64 of a thread's registers hold weights."""
    padded = _padded(size)
    num_warps = {16: 1, 32: 8, 64: 16}[padded]  # with 4 at 32, the compiler runs out of registers
    return {"SIZE": size, "PADDED": padded, "num_warps": num_warps} | _COMPILER_OPTIONS


def _row_options(size: int, *, chunk: int) -> dict[str, int]:
    """Return the constants of a launch; products are summed over `chunk` channels at a time."""
    padded = _padded(size)
    constants = {"SIZE": size, "PADDED": padded, "COLUMNS": 32, "CHUNK": chunk}
    return constants | {"num_warps": 4 if padded < 64 else 8} | _COMPILER_OPTIONS


def _padded(size: int) -> int:
    """Return a power of two of at least 16, which the matrix products of a Row LSTM need."""
    return max(16, int(triton.next_power_of_2(size)))


def _interleave(weights: Tensor, *, num_neighbours: int) -> Tensor:
    """Return one matrix per neighbour, (D, neighbours, 4h, h), with the gates of a channel together."""
    size = weights.shape[1] // 4
    split = weights.unflatten(1, (4, size)).unflatten(-1, (num_neighbours, size))
    return split.permute(0, 3, 2, 1, 4).flatten(2, 3).contiguous()


def _bordered(initial: Tensor, num_images: int, height: int, width: int, *, is_row: bool) -> Tensor:
    """Return room for states, (N, D, H + 1, W + 2, h), initial states and zeros around it set."""
    num_directions, size = initial.shape
    shape = (num_images, num_directions, height + 1, width + 2, size)
    states = initial.new_empty(shape)
    values = initial[:, None]  # (D, 1, h)
    states[:, :, 0] = values
    states[:, :, 1:, 0] = values
    if is_row:
        states[:, :, :, 0] = 0
        states[:, :, :, width + 1] = 0
    return states


def _weight_gradient(d_gates: Tensor, hidden: Tensor, neighbours: tuple[_Neighbour, ...]) -> Tensor:
    """Return the gradient of the weights, lines interleaved, (D, 4h, neighbours * h)."""
    height, width = d_gates.shape[2:4]
    states = [hidden[:, :, n.row : n.row + height, n.column : n.column + width] for n in neighbours]
    lines = d_gates.transpose(0, 1).flatten(1, 3)  # (D, N * H * W, 4h)
    return lines.mT @ torch.cat(states, dim=-1).transpose(0, 1).flatten(1, 3)


def _initial_gradient(
    d_gates: Tensor, matrices: Tensor, neighbours: tuple[_Neighbour, ...]
) -> Tensor:
    """Return the gradient of the initial hidden state, (D, h)."""
    edges = [d_gates[:, :, n.rows, n.columns].sum(dim=(0, 2, 3)) for n in neighbours]
    lines = torch.stack(edges, dim=1)  # (D, neighbours, 4h)
    return (lines[:, :, None] @ matrices).sum(dim=(1, 2))


def _gates_to_pixels(maps: Tensor, flips: Flips) -> Tensor:
    """Return maps (N, D, 4h, H, W) in reading order, lines interleaved, (N, D, H, W, 4h)."""
    split = flip(maps, flips).unflatten(2, (4, maps.shape[2] // 4))
    return split.permute(0, 1, 4, 5, 3, 2).flatten(4).contiguous()


def _pixels_to_gates(lines: Tensor, flips: Flips) -> Tensor:
    """Undo `_gates_to_pixels`."""
    split = lines.unflatten(4, (lines.shape[4] // 4, 4))
    return flip(split.permute(0, 1, 5, 4, 2, 3).flatten(2, 3), flips)
