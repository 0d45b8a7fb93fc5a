"""Recurrences in plain PyTorch with a hand-written backward pass: any device and floating type.

A *step* is a set of cells that depend only on the step before: a diagonal of the Diagonal LSTM, a
row of the Row LSTM. Cells are stored step after step, (D, cells, N, channels), so that

- a step's state-to-state term is one matrix product per neighbour, over the whole batch and both
  directions, and no cell outside the image is computed (half of the skewed map is outside);
- the neighbours of a step are contiguous slices of the step before, which is stored between two
  border cells: initial states in the Diagonal LSTM, zeros in the Row LSTM;
- gates are activated in place and kept, and the weight gradient is one product at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor

from raypixel.kernels.reference import Flips, flip


@dataclass(frozen=True)
class _Steps:
    """The order in which the cells of an image are visited.

    `lengths` has the number of cells of each step, first of the step before the image; `offsets`
    has, for each step, where its neighbours begin in the step before, borders counted; `carried`
    names the neighbour whose cell state is carried on; `cells` has the pixels in order, as
    `i * W + j`, (cells,).
    """

    lengths: list[int]
    offsets: list[tuple[int, ...]]
    carried: int
    cells: Tensor

    def segments(self, states: Tensor) -> list[Tensor]:
        """Return each step of bordered states (D, places, N, h), borders included."""
        return list(states.split([length + 2 for length in self.lengths], dim=1))

    def places(self, neighbour: int | None) -> Tensor:
        """Return where each cell, or one of its neighbours, lies in bordered states, (cells,)."""
        starts = list(accumulate((length + 2 for length in self.lengths), initial=0))
        places = []
        for step, length in enumerate(self.lengths[1:]):
            first = starts[step + 1] + 1
            if neighbour is not None:
                first = starts[step] + self.offsets[step][neighbour]
            places.append(torch.arange(first, first + length, device=self.cells.device))
        return torch.cat(places)


@lru_cache(maxsize=8)
def _steps(height: int, width: int, device: torch.device, *, is_row: bool) -> _Steps:
    if is_row:
        cells = torch.arange(height * width, device=device)
        return _Steps([width] * (height + 1), [(0, 1, 2)] * height, 1, cells)
    lengths = [0]
    offsets: list[tuple[int, ...]] = []
    parts = []
    for step in range(height + width - 1):
        top, bottom = max(0, step - width + 1), min(step, height - 1)
        shift = top - max(0, step - width)  # rows that left the image since the step before
        lengths.append(bottom - top + 1)
        offsets.append((shift + 1, shift))  # left, up
        rows = torch.arange(top, bottom + 1, device=device)
        parts.append(rows * width + step - rows)
    return _Steps(lengths, offsets, 0, torch.cat(parts))


def forward(
    input_to_state: Tensor,
    weights: Tensor,
    initial_hidden: Tensor,
    initial_cell: Tensor,
    *,
    flips: Flips,
    keeps: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the hidden states; keep gates, hidden and cell states in the order of the steps."""
    num_images, _, channels, height, width = input_to_state.shape
    size = channels // 4
    steps = _steps(height, width, input_to_state.device, is_row=flips is None)
    gates = _to_steps(input_to_state, steps, flips)
    places = sum(steps.lengths) + 2 * len(steps.lengths)
    hidden = _bordered(initial_hidden, places, num_images, width, is_row=flips is None)
    cell = _bordered(initial_cell, places, num_images, width, is_row=flips is None)
    hiddens, cells = steps.segments(hidden), steps.segments(cell)
    matrices = [part.mT for part in weights.split(size, dim=-1)]
    for step, current in enumerate(gates.split(steps.lengths[1:], dim=1)):
        length, offsets = current.shape[1], steps.offsets[step]
        current = current.flatten(1, 2)  # (D, length * N, 4h)
        for matrix, offset in zip(matrices, offsets, strict=True):
            current.baddbmm_(_slice(hiddens[step], offset, length), matrix)
        current[..., : 3 * size].sigmoid_()
        current[..., 3 * size :].tanh_()
        output, forget, admit, content = current.split(size, dim=-1)
        following = _slice(cells[step + 1], 1, length)
        carried = _slice(cells[step], offsets[steps.carried], length)
        torch.mul(forget, carried, out=following).addcmul_(admit, content)
        torch.tanh(following, out=_slice(hiddens[step + 1], 1, length)).mul_(output)
    states = _from_steps(hidden.index_select(1, steps.places(None)), steps, flips, (height, width))
    return states, (gates, hidden, cell, weights) if keeps else ()


def backward(
    hidden_gradient: Tensor, kept: tuple[Tensor, ...], *, flips: Flips
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of the four tensors."""
    gates, hidden, cell, weights = kept
    height, width = hidden_gradient.shape[-2:]
    is_row = flips is None
    steps = _steps(height, width, hidden.device, is_row=is_row)
    gradients = torch.empty_like(gates)
    places = steps.places(None)
    d_hidden, d_cell = torch.zeros_like(hidden), torch.zeros_like(cell)
    d_hidden.index_copy_(1, places, _to_steps(hidden_gradient, steps, flips))
    _run_backward(steps, (gates, cell, weights), (gradients, d_hidden, d_cell))
    neighbours = [
        hidden.index_select(1, steps.places(neighbour))
        for neighbour in range(len(steps.offsets[0]))
    ]
    weight_gradient = gradients.flatten(1, 2).mT @ torch.cat(neighbours, -1).flatten(1, 2)
    return (
        _from_steps(gradients, steps, flips, (height, width)),
        weight_gradient,
        _initial_gradient(d_hidden, places, width, is_row=is_row),
        _initial_gradient(d_cell, places, width, is_row=is_row),
    )


def _run_backward(
    steps: _Steps, given: tuple[Tensor, Tensor, Tensor], wanted: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Fill the gradients of the pre-activations; add to those of the hidden and cell states."""
    gates, cell, weights = given
    cells, d_hiddens, d_cells = (steps.segments(t) for t in (cell, *wanted[1:]))
    size = cell.shape[-1]
    matrices = weights.split(size, dim=-1)
    step_gates = gates.split(steps.lengths[1:], dim=1)
    step_gradients = wanted[0].split(steps.lengths[1:], dim=1)
    for step in reversed(range(len(steps.offsets))):
        length, offsets = steps.lengths[step + 1], steps.offsets[step]
        output, forget, admit, content = step_gates[step].flatten(1, 2).split(size, dim=-1)
        gradient = step_gradients[step].flatten(1, 2)
        d_output, d_forget, d_admit, d_content = gradient.split(size, dim=-1)
        squashed = _slice(cells[step + 1], 1, length).tanh()
        through = _slice(d_hiddens[step + 1], 1, length) * output
        carried = offsets[steps.carried]
        total = torch.addcmul(through, through, squashed.square(), value=-1)
        total += _slice(d_cells[step + 1], 1, length)
        torch.mul(through.mul_(squashed), 1 - output, out=d_output)
        _slice(d_cells[step], carried, length).addcmul_(total, forget)
        torch.mul(total * forget * _slice(cells[step], carried, length), 1 - forget, out=d_forget)
        torch.mul(total * content * admit, 1 - admit, out=d_admit)
        torch.mul(total * admit, 1 - content.square(), out=d_content)
        for matrix, offset in zip(matrices, offsets, strict=True):
            _slice(d_hiddens[step], offset, length).baddbmm_(gradient, matrix)


def _slice(segment: Tensor, offset: int, length: int) -> Tensor:
    """Return some places of a step (D, places, N, h) as a view of matrices (D, length * N, h)."""
    return segment[:, offset : offset + length].flatten(1, 2)


def _bordered(initial: Tensor, places: int, num_images: int, width: int, *, is_row: bool) -> Tensor:
    """Return room for the states of all steps, (D, places, N, h), borders and first step set."""
    values = initial[:, None, None].expand(-1, places, num_images, -1)
    if not is_row:
        return values.clone(memory_format=torch.contiguous_format)
    states = torch.zeros_like(values, memory_format=torch.contiguous_format)
    states[:, 1 : width + 1] = values[:, :width]
    return states


def _initial_gradient(states: Tensor, places: Tensor, width: int, *, is_row: bool) -> Tensor:
    """Return the gradient of the initial state, (D, h), from those of all bordered states."""
    if is_row:
        return states[:, 1 : width + 1].sum(dim=(1, 2))
    is_border = torch.ones(states.shape[1], dtype=torch.bool, device=states.device)
    is_border[places] = False
    return states[:, is_border].sum(dim=(1, 2))


def _to_steps(maps: Tensor, steps: _Steps, flips: Flips) -> Tensor:
    """Return maps (N, D, C, H, W) in the order of the steps, (D, cells, N, C)."""
    return flip(maps, flips).flatten(-2).permute(1, 3, 0, 2).index_select(1, steps.cells)


def _from_steps(
    states: Tensor, steps: _Steps, flips: Flips, image_shape: tuple[int, ...]
) -> Tensor:
    """Undo `_to_steps`."""
    order = torch.empty_like(steps.cells)
    order[steps.cells] = torch.arange(len(order), device=order.device)
    maps = states.permute(2, 0, 3, 1).index_select(-1, order)
    return flip(maps.unflatten(-1, image_shape), flips)
