"""Numba kernels that walk an image in raster-scan order, sixteen images in the lanes of a vector.

Layout, and why:

- Lanes are images: every cell of sixteen images does the same work, so no lane ever waits for a
  neighbour, nothing is added across lanes, and one code serves every hidden size. The skewed map of
  the paper, half of whose cells are outside the image, never exists.
- A cell is a *tile*: (channels, 16 lanes), contiguous. The state of a whole row stays in the L2
  cache, that of the current cell and the weights of a small layer in L1.
- Maps come and go as (N, C, H, W); 16 x 16 blocks are transposed in registers, row by row.
- The weight gradient sums over images and pixels, so there channels are the lanes: the gradient of
  a tile of 16 gates by 16 states stays in registers for a whole row.

Channel counts are padded to a multiple of 16 with zero weights. A map read from right to left is
only stored in its own order: position p of a row is column p, or column W - 1 - p.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from numba import njit

from raypixel.kernels.simd import (
    LANES,
    as_floats,
    broadcast,
    fma,
    load,
    number,
    prefetch,
    shifted,
    sigmoid,
    store,
    stream,
    take_next,
    tanh,
)
from raypixel.kernels.tiles import add_product, gather_lanes, scatter_lanes

_BLOCK = LANES * LANES


# What a kernel is called with: one array of int64, beginning with these.
NEXT_TASK, NEXT_WORKER, NUM_TASKS, NUM_IMAGES, NUM_DIRECTIONS = 0, 1, 2, 3, 4
SIZE, HEIGHT, WIDTH, COLUMN_STEPS, KEEPS, SCRATCH_SIZE, ADDRESSES = 5, 6, 7, 8, 10, 11, 12


@njit
def task_shape(table, task):
    """Return (lanes, h, H, W, column step) of a task: a block of images and a direction."""
    block, direction = task // table[NUM_DIRECTIONS], task % table[NUM_DIRECTIONS]
    lanes = min(LANES, table[NUM_IMAGES] - block * LANES)
    return lanes, table[SIZE], table[HEIGHT], table[WIDTH], table[COLUMN_STEPS + direction]


@njit
def task_maps(table, argument, task, channels):
    """Return the first of a task's maps in an argument (N, D, channels, H, W)."""
    block, direction = task // table[NUM_DIRECTIONS], task % table[NUM_DIRECTIONS]
    step = channels * table[HEIGHT] * table[WIDTH]
    first = (block * LANES * table[NUM_DIRECTIONS] + direction) * step
    return shifted(as_floats(table[ADDRESSES + argument]), first)


@njit
def part(table, argument, index, length):
    """Return part `index` of an argument made of parts of equal length."""
    return shifted(as_floats(table[ADDRESSES + argument]), index * length)


@njit
def run_tasks(table, scratch_argument, run_task):
    """Take tasks until none is left, with a part of the scratch memory for this thread."""
    worker = take_next(table, NEXT_WORKER)
    scratch = part(table, scratch_argument, worker, table[SCRATCH_SIZE])
    task = take_next(table, NEXT_TASK)
    while task < table[NUM_TASKS]:
        run_task(table, task, scratch)
        task = take_next(table, NEXT_TASK)


@njit
def padded(size):
    """Return a size rounded up to whole vectors."""
    return -(-size // LANES) * LANES


@njit
def stored_column(column, width, column_step):
    """Return where a column is stored: itself, or counted from the right."""
    return column if column_step > 0 else width - 1 - column


@njit
def read_row(tiles, tile_size, source, image_step, shape):
    """Read a row of maps into tiles of `tile_size` floats.

    Shape is (lanes, channels, H, W, column step).
    """
    lanes, channels, height, width, column_step = shape
    for channel in range(channels):
        for column in range(0, width, LANES):
            gather_lanes(
                tiles,
                stored_column(column, width, column_step) * tile_size + channel * LANES,
                column_step * tile_size,
                min(LANES, width - column),
                source,
                channel * height * width + column,
                image_step,
                lanes,
            )


@njit
def write_row(target, image_step, tiles, tile_size, shape):
    """Write tiles of `tile_size` floats as a row of maps; shape as in `read_row`."""
    lanes, channels, height, width, column_step = shape
    for channel in range(channels):
        for column in range(0, width, LANES):
            scatter_lanes(
                target,
                channel * height * width + column,
                image_step,
                lanes,
                tiles,
                stored_column(column, width, column_step) * tile_size + channel * LANES,
                column_step * tile_size,
                min(LANES, width - column),
            )


@njit
def prefetch_row(source, image_step, share, shape):
    """Ask for one of W shares of a row of maps; shape as in `read_row`."""
    lanes, channels, height, width, _ = shape
    for channel in range(share * channels // width, (share + 1) * channels // width):
        for lane in range(lanes):
            place = lane * image_step + channel * height * width
            for column in range(0, width, LANES):
                prefetch(source, place + column)


@njit
def prefetch_tile(tiles, place, size):
    """Ask for a tile, which need not exist."""
    for unit in range(size):
        prefetch(tiles, place + unit * LANES)


@njit
def fill(tiles, place, value, size):
    """Broadcast `size` scalars into the lanes of a tile."""
    for unit in range(size):
        store(tiles, place + unit * LANES, broadcast(value[unit]))


@njit
def copy(tiles, place, source, source_place, size):
    """Copy `size` vectors."""
    for unit in range(size):
        store(tiles, place + unit * LANES, load(source, source_place + unit * LANES))


@njit
def zero(tiles, place, size):
    """Set `size` vectors to zero."""
    for unit in range(size):
        store(tiles, place + unit * LANES, number(0.0))


@njit
def add(tiles, place, source, source_place, size):
    """Add `size` vectors to others."""
    for unit in range(size):
        at = place + unit * LANES
        store(tiles, at, load(tiles, at) + load(source, source_place + unit * LANES))


@njit
def multiply(target, place, weights, x, x_place, size, depth):
    """Add W x to `size` vectors; W is packed as (size / 16, depth, 16)."""
    for tile in range(size // LANES):
        add_product(target, place + tile * _BLOCK, weights, tile * depth * LANES, x, x_place, depth)


@njit
def update(gates, kept, previous, previous_place, cells, cells_place, hidden, size):
    """Turn a cell's pre-activations into its state; `hidden` receives the hidden state.

    The gates are written to `kept`, past the caches: nobody reads them before the backward pass.
    """
    step = size * LANES
    for unit in range(size):
        at = unit * LANES
        output = sigmoid(load(gates, at))
        forget = sigmoid(load(gates, step + at))
        admit = sigmoid(load(gates, 2 * step + at))
        content = tanh(load(gates, 3 * step + at))
        cell = fma(forget, load(previous, previous_place + at), admit * content)
        stream(kept, at, output)
        stream(kept, step + at, forget)
        stream(kept, 2 * step + at, admit)
        stream(kept, 3 * step + at, content)
        store(cells, cells_place + at, cell)
        store(hidden, at, output * tanh(cell))


@njit
def differentiate(
    gates, place, target, previous, previous_place, cells, cells_place, hidden, hidden_place,
    carry, carry_place, size,
):  # fmt: skip
    """Write the gradient of a cell's pre-activations at the place of its gates.

    `hidden` and `carry` hold the gradients of the hidden and of the cell state; the latter is moved
    back to the previous cell state.
    """
    one = number(1.0)
    step = size * LANES
    for unit in range(size):
        at = unit * LANES
        output = load(gates, place + at)
        forget = load(gates, place + step + at)
        admit = load(gates, place + 2 * step + at)
        content = load(gates, place + 3 * step + at)
        squashed = tanh(load(cells, cells_place + at))
        through = load(hidden, hidden_place + at) * output
        cell = fma(through, one - squashed * squashed, load(carry, carry_place + at))
        change = cell * load(previous, previous_place + at) * forget * (one - forget)
        store(target, place + at, through * squashed * (one - output))
        store(target, place + step + at, change)
        store(target, place + 2 * step + at, cell * content * admit * (one - admit))
        store(target, place + 3 * step + at, cell * admit * (one - content * content))
        store(carry, carry_place + at, cell * forget)
