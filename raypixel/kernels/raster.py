"""Recurrences on the CPU in float32, by Numba kernels that walk the image in raster-scan order.

One task is one direction over a block of sixteen images; tasks share nothing and run on as many
threads as PyTorch uses. Each returns its own part of the weight gradient, and parts are added in a
fixed order, so a result does not depend on the number of threads.

The gates of every cell are kept for the backward pass, in place of the pre-activations, which
nobody needs after the forward pass. Importing this module needs Numba; compiling waits for the
first call and is kept on disk.

Unlike the usual advice for large hidden sizes (one matrix product per diagonal over the whole
batch), these kernels serve every size: their inner product alone reaches a matrix library's rate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from raypixel.kernels import raster_backward, raster_forward
from raypixel.kernels.compilation import compile_kernel, run_on_threads
from raypixel.kernels.reference import Flips
from raypixel.kernels.simd import LANES


def forward(
    input_to_state: Tensor,
    weights: Tensor,
    initial_hidden: Tensor,
    initial_cell: Tensor,
    *,
    flips: Flips,
    keeps: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the hidden states; keep gates and cell states of every cell if a backward pass may follow."""
    inputs = input_to_state.contiguous()
    num_images, num_directions, channels, height, width = inputs.shape
    size = channels // 4
    num_tasks = -(-num_images // LANES) * num_directions
    num_gate_rows = num_tasks * height if keeps else num_tasks
    num_cell_rows = num_tasks * (height + 1) if keeps else num_tasks
    hidden = inputs.new_empty(num_images, num_directions, size, height, width)
    gates = inputs.new_empty(num_gate_rows, width, _padded(channels), LANES)
    cells = inputs.new_empty(num_cell_rows, width + 1, size, LANES)
    initial = (initial_hidden.contiguous(), initial_cell.contiguous())
    _run(
        raster_forward.row_forward if flips is None else raster_forward.diagonal_forward,
        (inputs, hidden, gates, cells, _pack(weights), *initial),
        maps=hidden,
        flips=flips,
        keeps=keeps,
        scratch_size=((3 * width + 2) * size + width * _padded(channels)) * LANES,
    )
    return hidden, (hidden, gates, cells, weights, initial_hidden) if keeps else ()


def backward(
    hidden_gradient: Tensor, kept: tuple[Tensor, ...], *, flips: Flips
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of the four tensors."""
    hidden, gates, cells, weights, initial_hidden = kept
    num_images, num_directions, size, height, width = hidden.shape
    num_blocks = -(-num_images // LANES)
    num_neighbours = weights.shape[-1] // size
    is_row = flips is None
    input_gradient = hidden.new_empty(num_images, num_directions, 4 * size, height, width)
    tiles = (num_neighbours, _padded(4 * size) // LANES, _padded(size) // LANES)
    weight_gradient = hidden.new_zeros(num_blocks, num_directions, *tiles, LANES, LANES)
    num_states = 1 + width if is_row else 3
    initial_gradient = hidden.new_zeros(num_blocks, num_directions, num_states, size, LANES)
    initial_states = F.pad(initial_hidden, (0, _padded(size) - size)).unflatten(-1, (-1, LANES))
    initial_states = initial_states[:, :, None].expand(-1, -1, LANES, -1).contiguous()
    given = (hidden_gradient.contiguous(), hidden, gates, cells, _pack(weights.mT))
    _run(
        raster_backward.row_backward if is_row else raster_backward.diagonal_backward,
        (*given, initial_states, input_gradient, weight_gradient, initial_gradient),
        maps=hidden,
        flips=flips,
        keeps=True,
        scratch_size=_backward_scratch(size, width),
    )
    weight_gradient = weight_gradient.sum(0).permute(0, 2, 4, 1, 3, 5)  # D, G, 16, M, h, 16
    weight_gradient = weight_gradient.flatten(-2)[..., :size].flatten(-2).flatten(1, 2)
    states_gradient = initial_gradient.sum(dim=(0, -1))  # D, states, h
    cell_gradient = states_gradient[:, 1:].sum(1) if is_row else states_gradient[:, 1]
    return input_gradient, weight_gradient[:, : 4 * size], states_gradient[:, 0], cell_gradient


def _padded(size: int) -> int:
    return -(-size // LANES) * LANES


def _pack(weights: Tensor) -> Tensor:
    """Return matrices (D, outputs, inputs) as (D, outputs / 16, inputs, 16), padded with zeros."""
    outputs = weights.shape[1]
    padded = F.pad(weights, (0, 0, 0, _padded(outputs) - outputs))
    return padded.unflatten(1, (-1, LANES)).mT.contiguous()


def _backward_scratch(size: int, width: int) -> int:
    """Return the floats a thread needs at most: `_divide_scratch` of `raster_backward`."""
    rows = width * (size + 2 * _padded(4 * size)) + 2 * _padded(size) * (width + 2)
    neighbours = max((width + 1) * _padded(2 * size), 2 * ((width + 2) * size + LANES))
    return (rows + neighbours) * LANES


def _run(
    function: Callable[[Any], None],
    arguments: tuple[Tensor, ...],
    *,
    maps: Tensor,
    flips: Flips,
    keeps: bool,
    scratch_size: int,
) -> None:
    """Run a kernel over all tasks; `maps` is (N, D, h, H, W), the arguments are contiguous."""
    num_images, num_directions, size, height, width = maps.shape
    num_tasks = -(-num_images // LANES) * num_directions
    if num_tasks == 0:
        return
    num_threads = min(torch.get_num_threads(), num_tasks)
    scratch = maps.new_empty(num_threads, scratch_size)
    column_steps = [-1 if is_flipped else 1 for is_flipped in (*(flips or ()), False, False)][:2]
    counts = (0, 0, num_tasks, num_images, num_directions, size, height, width)
    options = (*column_steps, int(keeps), scratch_size)
    addresses = (tensor.data_ptr() for tensor in (*arguments, scratch))
    table: NDArray[np.int64] = np.array([*counts, *options, *addresses], dtype=np.int64)
    run_on_threads(compile_kernel(function).address, table, num_threads=num_threads)
