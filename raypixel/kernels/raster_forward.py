"""Forward kernels of the Diagonal LSTM and the Row LSTM in raster-scan order.

`raster_cells.py` says how memory is laid out and why. A row of `gates` has W tiles of padded 4h
vectors; a row of `cells` has W tiles of h, after one initial tile in the Diagonal LSTM; in the Row
LSTM the row above the image is the initial one. Without a backward pass only one row of each is
kept.

The next row of the input is prefetched while this one is computed: its cache lines lie in as many
pages as there are maps, which no hardware prefetcher follows.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from numba import njit

from raypixel.kernels.raster_cells import (
    KEEPS,
    NUM_DIRECTIONS,
    copy,
    fill,
    multiply,
    padded,
    part,
    prefetch_row,
    read_row,
    run_tasks,
    task_maps,
    task_shape,
    update,
    write_row,
    zero,
)
from raypixel.kernels.simd import LANES, shifted

# Arguments, in the order of the table.
_INPUTS, _HIDDEN, _GATES, _CELLS, _WEIGHTS, _INITIAL_HIDDEN, _INITIAL_CELL, _SCRATCH = range(8)


@njit
def _diagonal_task(table, task, scratch):
    """Run one direction over up to sixteen images."""
    shape = task_shape(table, task)
    lanes, size, height, width, column_step = shape
    input_shape = (lanes, 4 * size, height, width, column_step)
    direction = task % table[NUM_DIRECTIONS]
    inputs = task_maps(table, _INPUTS, task, 4 * size)
    hidden = task_maps(table, _HIDDEN, task, size)
    hidden_step = table[NUM_DIRECTIONS] * size * height * width
    gates_size, tile = padded(4 * size) * LANES, size * LANES
    gates_step, cells_step = width * gates_size, (width + 1) * tile
    gates, cells = _kept_rows(table, task, gates_step, cells_step, height)
    weights = part(table, _WEIGHTS, direction, gates_size // LANES * 2 * size)
    initial_hidden = part(table, _INITIAL_HIDDEN, direction, size)
    initial_cell = part(table, _INITIAL_CELL, direction, size)
    x = scratch  # (left, up) of each cell, and of one more
    row = shifted(scratch, (2 * width + 2) * tile)
    pre = shifted(row, width * tile)
    for column in range(width):
        fill(x, (2 * column + 1) * tile, initial_hidden, size)
    for line in range(height):
        read_row(pre, gates_size, shifted(inputs, line * width), 4 * hidden_step, input_shape)
        following = shifted(inputs, min(line + 1, height - 1) * width)
        fill(x, 0, initial_hidden, size)
        fill(cells, 0, initial_cell, size)
        for column in range(width):
            prefetch_row(following, 4 * hidden_step, column, input_shape)
            at = column * tile
            place = column * gates_size
            multiply(pre, place, weights, x, 2 * at, gates_size // LANES, 2 * size)
            update(
                shifted(pre, place),
                shifted(gates, place),
                cells,
                at,
                cells,
                at + tile,
                shifted(row, at),
                size,
            )
            copy(x, 2 * at + tile, row, at, size)
            copy(x, 2 * at + 2 * tile, row, at, size)
        write_row(shifted(hidden, line * width), hidden_step, row, tile, shape)
        if table[KEEPS]:
            gates, cells = shifted(gates, gates_step), shifted(cells, cells_step)


@njit
def _row_task(table, task, scratch):
    """Run a Row LSTM over up to sixteen images."""
    shape = task_shape(table, task)
    lanes, size, height, width, column_step = shape
    input_shape = (lanes, 4 * size, height, width, column_step)
    inputs = task_maps(table, _INPUTS, task, 4 * size)
    hidden = task_maps(table, _HIDDEN, task, size)
    hidden_step = size * height * width
    gates_size, tile = padded(4 * size) * LANES, size * LANES
    gates_step, cells_step = width * gates_size, width * tile
    gates, cells = _kept_rows(table, task, gates_step, cells_step, height)
    weights = part(table, _WEIGHTS, 0, 0)
    x = scratch  # the hidden row above, between two zero tiles
    row = shifted(scratch, (2 * width + 2) * tile)
    pre = shifted(row, width * tile)
    zero(x, 0, size)
    zero(x, (width + 1) * tile, size)
    for column in range(width):
        fill(x, (column + 1) * tile, part(table, _INITIAL_HIDDEN, 0, 0), size)
        fill(cells, column * tile, part(table, _INITIAL_CELL, 0, 0), size)
    for line in range(height):
        read_row(pre, gates_size, shifted(inputs, line * width), 4 * hidden_step, input_shape)
        following = shifted(inputs, min(line + 1, height - 1) * width)
        below = shifted(cells, cells_step) if table[KEEPS] else cells
        for column in range(width):
            prefetch_row(following, 4 * hidden_step, column, input_shape)
            at = column * tile
            place = column * gates_size
            multiply(pre, place, weights, x, at, gates_size // LANES, 3 * size)
            update(
                shifted(pre, place),
                shifted(gates, place),
                cells,
                at,
                below,
                at,
                shifted(row, at),
                size,
            )
        copy(x, tile, row, 0, width * size)
        write_row(shifted(hidden, line * width), hidden_step, row, tile, shape)
        if table[KEEPS]:
            gates, cells = shifted(gates, gates_step), below


@njit
def _kept_rows(table, task, gates_step, cells_step, height):
    """Return a task's first row of gates and of cells."""
    if table[KEEPS]:
        gates = part(table, _GATES, task, height * gates_step)
        return gates, part(table, _CELLS, task, (height + 1) * cells_step)
    return part(table, _GATES, task, gates_step), part(table, _CELLS, task, cells_step)


def diagonal_forward(table):
    """Work on tasks of a Diagonal LSTM until none is left; many threads may do so at once."""
    run_tasks(table, _SCRATCH, _diagonal_task)


def row_forward(table):
    """Work on tasks of a Row LSTM until none is left; many threads may do so at once."""
    run_tasks(table, _SCRATCH, _row_task)
