"""Backward kernels of the Diagonal LSTM and the Row LSTM, in reverse raster-scan order.

The rows of an image are visited from the last to the first and so are the cells of a row. Once the
gradients of a row's pre-activations are known they are written out and, with channels now in the
lanes, multiplied with the row's neighbour states into the weight gradient.

`raster_cells.py` says how memory is laid out and why. New here, in floats:

- `states`: two rows of hidden states with channels in the lanes, (2, h / 16, W + 2, 16 images, 16);
  of each row the first and the last column lie outside the image.
- `transposed`: a row of gradients with channels in the lanes, (4h / 16, W, 16 images, 16).
- `weight_gradient`: (neighbours, 4h / 16, h / 16, 16 gates, 16 states), added to.
- `initial_gradient`: the hidden tile and the cell tile (or row of tiles), added to.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from numba import njit

from raypixel.kernels.raster_cells import (
    NUM_DIRECTIONS,
    add,
    differentiate,
    multiply,
    padded,
    part,
    prefetch_row,
    prefetch_tile,
    read_row,
    run_tasks,
    stored_column,
    task_maps,
    task_shape,
    write_row,
    zero,
)
from raypixel.kernels.simd import LANES, load, shifted, store
from raypixel.kernels.tiles import add_product, gather_lanes

_BLOCK = LANES * LANES

# Arguments, in the order of the table.
_HIDDEN_GRADIENT, _HIDDEN, _GATES, _CELLS, _WEIGHTS, _INITIAL_STATES = range(6)
_INPUT_GRADIENT, _WEIGHT_GRADIENT, _INITIAL_GRADIENT, _SCRATCH = range(6, 10)


@njit
def _fill_states(states, initial, shape):
    """Set a whole row of states to the initial one, `initial` being (h / 16, 16 images, 16)."""
    _, size, _, width, _ = shape
    for tile in range(padded(size) // LANES):
        for column in range(width + 2):
            at = (tile * (width + 2) + column) * _BLOCK
            for lane in range(0, _BLOCK, LANES):
                store(states, at + lane, load(initial, tile * _BLOCK + lane))


@njit
def _clear_borders(states, shape):
    """Set the columns left and right of a row of states to zero."""
    _, size, _, width, _ = shape
    for tile in range(padded(size) // LANES):
        first = tile * (width + 2) * _BLOCK
        zero(states, first, LANES)
        zero(states, first + (width + 1) * _BLOCK, LANES)


@njit
def _read_states(states, hidden, image_step, shape):
    """Read a row of hidden states with channels in the lanes."""
    lanes, size, height, width, column_step = shape
    for tile in range(padded(size) // LANES):
        first = (tile * (width + 2) + 1) * _BLOCK
        channel = tile * LANES
        for image in range(lanes):
            for column in range(0, width, LANES):
                gather_lanes(
                    states,
                    first + stored_column(column, width, column_step) * _BLOCK + image * LANES,
                    column_step * _BLOCK,
                    min(LANES, width - column),
                    hidden,
                    image * image_step + channel * height * width + column,
                    height * width,
                    min(LANES, size - channel),
                )


@njit
def _transpose(transposed, gradients, num_tiles, width):
    """Put the channels of a row of gradients in the lanes."""
    for tile in range(num_tiles):
        for column in range(width):
            gather_lanes(
                transposed,
                (tile * width + column) * _BLOCK,
                LANES,
                LANES,
                gradients,
                (column * num_tiles + tile) * _BLOCK,
                LANES,
                LANES,
            )


@njit
def _add_weight_gradient(target, neighbour, transposed, states, shape):
    """Add a row's part of one neighbour's weight gradient."""
    _, size, _, width, _ = shape
    gate_tiles = padded(4 * size) // LANES
    state_tiles = padded(size) // LANES
    for state_tile in range(state_tiles):
        for gate_tile in range(gate_tiles):
            add_product(
                target,
                ((neighbour * gate_tiles + gate_tile) * state_tiles + state_tile) * _BLOCK,
                transposed,
                gate_tile * width * _BLOCK,
                states,
                state_tile * (width + 2) * _BLOCK,
                width * LANES,
            )


@njit
def _divide_scratch(scratch, neighbours_length, shape):
    """Return (row, gradients, transposed, states, neighbours), the last two and padding zero."""
    _, size, _, width, _ = shape
    gates_length = width * padded(4 * size) * LANES
    states_length = 2 * padded(size) * (width + 2) * LANES
    gradients = shifted(scratch, width * size * LANES)
    transposed = shifted(gradients, gates_length)
    states = shifted(transposed, gates_length)
    neighbours = shifted(states, states_length)
    zero(states, 0, (states_length + neighbours_length) // LANES)
    if padded(4 * size) > 4 * size:
        zero(gradients, 0, gates_length // LANES)
    return scratch, gradients, transposed, states, neighbours


@njit
def _diagonal_task(table, task, scratch):
    """Run one direction backward over up to sixteen images."""
    shape = task_shape(table, task)
    lanes, size, height, width, column_step = shape
    input_shape = (lanes, 4 * size, height, width, column_step)
    direction = task % table[NUM_DIRECTIONS]
    hidden_gradient = task_maps(table, _HIDDEN_GRADIENT, task, size)
    hidden = task_maps(table, _HIDDEN, task, size)
    input_gradient = task_maps(table, _INPUT_GRADIENT, task, 4 * size)
    hidden_step = table[NUM_DIRECTIONS] * size * height * width
    gates_size, tile = padded(4 * size) * LANES, size * LANES
    num_neighbours, pair = padded(2 * size), padded(2 * size) * LANES  # (left, up) of each cell
    gates = part(table, _GATES, task, height * width * gates_size)
    cells = part(table, _CELLS, task, (height + 1) * (width + 1) * tile)
    weights = part(table, _WEIGHTS, direction, num_neighbours * 4 * size)
    initial_states = part(table, _INITIAL_STATES, direction, padded(size) * LANES)
    weight_gradient = part(table, _WEIGHT_GRADIENT, task, 2 * gates_size * padded(size) // LANES)
    initial_gradient = part(table, _INITIAL_GRADIENT, task, 3 * tile)
    carry = shifted(initial_gradient, 2 * tile)
    row, gradients, transposed, states, neighbours = _divide_scratch(
        scratch, (width + 1) * pair, shape
    )
    above = shifted(states, padded(size) * (width + 2) * LANES)
    _fill_states(states, initial_states, shape)
    _fill_states(above, initial_states, shape)
    _read_states(states, shifted(hidden, (height - 1) * width), hidden_step, shape)
    for line in range(height - 1, -1, -1):
        if line > 0:
            _read_states(above, shifted(hidden, (line - 1) * width), hidden_step, shape)
        else:
            _fill_states(above, initial_states, shape)
        read_row(row, tile, shifted(hidden_gradient, line * width), hidden_step, shape)
        zero(neighbours, width * pair, size)
        zero(carry, 0, size)
        target = shifted(input_gradient, line * width)
        earlier = shifted(hidden_gradient, max(line - 1, 0) * width)
        line_gates = shifted(gates, line * width * gates_size)
        line_cells = shifted(cells, line * (width + 1) * tile)
        for column in range(width - 1, -1, -1):
            prefetch_row(target, 4 * hidden_step, column, input_shape)
            prefetch_row(earlier, hidden_step, column, shape)
            at, place = column * tile, column * gates_size
            prefetch_tile(line_gates, place - gates_size, gates_size // LANES)
            add(row, at, neighbours, (column + 1) * pair, size)
            add(row, at, neighbours, column * pair + tile, size)
            differentiate(
                line_gates, place, gradients, line_cells, at, line_cells, at + tile, row, at,
                carry, 0, size,
            )  # fmt: skip
            zero(neighbours, column * pair, num_neighbours)
            multiply(neighbours, column * pair, weights, gradients, place, num_neighbours, 4 * size)
        add(initial_gradient, 0, neighbours, 0, size)
        add(initial_gradient, tile, carry, 0, size)
        write_row(target, 4 * hidden_step, gradients, gates_size, input_shape)
        _transpose(transposed, gradients, gates_size // _BLOCK, width)
        _add_weight_gradient(weight_gradient, 0, transposed, states, shape)
        _add_weight_gradient(weight_gradient, 1, transposed, shifted(above, _BLOCK), shape)
        states, above = above, states
    for column in range(width):
        add(initial_gradient, 0, neighbours, column * pair + tile, size)


@njit
def _row_task(table, task, scratch):
    """Run a Row LSTM backward over up to sixteen images."""
    shape = task_shape(table, task)
    lanes, size, height, width, column_step = shape
    input_shape = (lanes, 4 * size, height, width, column_step)
    hidden_gradient = task_maps(table, _HIDDEN_GRADIENT, task, size)
    hidden = task_maps(table, _HIDDEN, task, size)
    input_gradient = task_maps(table, _INPUT_GRADIENT, task, 4 * size)
    hidden_step = size * height * width
    gates_size, tile = padded(4 * size) * LANES, size * LANES
    gates = part(table, _GATES, task, height * width * gates_size)
    cells = part(table, _CELLS, task, (height + 1) * width * tile)
    weights = part(table, _WEIGHTS, 0, 0)
    initial_states = part(table, _INITIAL_STATES, 0, 0)
    weight_gradient = part(table, _WEIGHT_GRADIENT, task, 3 * gates_size * padded(size) // LANES)
    initial_gradient = part(table, _INITIAL_GRADIENT, task, (1 + width) * tile)
    carry = shifted(initial_gradient, tile)
    below_length = (width + 2) * tile + _BLOCK  # a product writes whole blocks of vectors
    row, gradients, transposed, states, below = _divide_scratch(scratch, 2 * below_length, shape)
    here = shifted(below, below_length)
    for line in range(height - 1, -1, -1):
        if line > 0:
            _read_states(states, shifted(hidden, (line - 1) * width), hidden_step, shape)
        else:
            _fill_states(states, initial_states, shape)
            _clear_borders(states, shape)
        read_row(row, tile, shifted(hidden_gradient, line * width), hidden_step, shape)
        add(row, 0, below, tile, width * size)
        zero(here, 0, (width + 2) * size)
        target = shifted(input_gradient, line * width)
        earlier = shifted(hidden_gradient, max(line - 1, 0) * width)
        line_gates = shifted(gates, line * width * gates_size)
        line_cells = shifted(cells, line * width * tile)
        next_cells = shifted(line_cells, width * tile)
        for column in range(width - 1, -1, -1):
            prefetch_row(target, 4 * hidden_step, column, input_shape)
            prefetch_row(earlier, hidden_step, column, shape)
            at, place = column * tile, column * gates_size
            prefetch_tile(line_gates, place - gates_size, gates_size // LANES)
            differentiate(
                line_gates, place, gradients, line_cells, at, next_cells, at, row, at,
                carry, at, size,
            )  # fmt: skip
            multiply(here, at, weights, gradients, place, padded(3 * size), 4 * size)
        write_row(target, 4 * hidden_step, gradients, gates_size, input_shape)
        _transpose(transposed, gradients, gates_size // _BLOCK, width)
        for offset in range(3):
            neighbour_states = shifted(states, offset * _BLOCK)
            _add_weight_gradient(weight_gradient, offset, transposed, neighbour_states, shape)
        below, here = here, below
    for column in range(1, width + 1):
        add(initial_gradient, 0, below, column * tile, size)


def diagonal_backward(table):
    """Work on tasks of a Diagonal LSTM until none is left; many threads may do so at once."""
    run_tasks(table, _SCRATCH, _diagonal_task)


def row_backward(table):
    """Work on tasks of a Row LSTM until none is left; many threads may do so at once."""
    run_tasks(table, _SCRATCH, _row_task)
