"""The Triton kernels of `triton_kernels`: one program walks one image in one direction.

Maps have channels last, (program, rows, columns, channels). Gate maps have 4h channels, the gates
o, f, i, g of channel 0 first, then those of channel 1, and so on. State maps are *bordered*: pixel
(i, j) lies at (i + 1, j + 1) of H + 1 rows and W + 2 columns, with the initial state, or zeros,
around it. Channels are padded to a power of two and masked; padded states stay zero.

A program reads states that it has written in an earlier row, by other threads. A barrier before
each row makes them visible. No map is both read and written at one place within a row. Loops must
not be pipelined by the compiler (`num_stages=1`), which would move those reads before the barrier.

The Diagonal LSTM holds its weights in registers, element-wise over the threads, and multiplies
them by one cell's states at a time. What a cell reads from memory is loaded one cell ahead.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def diagonal_forward(
    input_to_state, gates, hidden, cell, weights, num_directions, height, width,
    SIZE: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """Fill the gate map and the state maps of a Diagonal LSTM."""
    channels, lines = _channels_and_lines(PADDED)
    is_channel, is_line = channels < SIZE, lines < 4 * SIZE
    weight_left, weight_up = _load_weights(weights, num_directions, SIZE, PADDED)
    row_length = (width + 2) * SIZE
    input_to_state = _pixels(input_to_state, height, width, 4 * SIZE) + lines
    gates = _pixels(gates, height, width, 4 * SIZE) + lines
    hidden = _pixels(hidden, height + 1, width + 2, SIZE) + channels
    cell = _pixels(cell, height + 1, width + 2, SIZE) + channels
    for i in range(height):
        tl.debug_barrier()
        left = tl.load(hidden + (i + 1) * row_length, mask=is_channel, other=0.0)  # (1, h)
        carried = tl.load(cell + (i + 1) * row_length, mask=is_channel, other=0.0)
        next_up = tl.load(hidden + i * row_length + SIZE, mask=is_channel, other=0.0)
        next_total = tl.load(input_to_state + i * width * 4 * SIZE, mask=is_line, other=0.0)
        for j in range(width):
            up, total = next_up, next_total
            pixel = i * width + j
            place = (i + 1) * row_length + (j + 1) * SIZE
            next_up = tl.load(hidden + place - row_length + SIZE, mask=is_channel, other=0.0)
            following = tl.minimum(pixel + 1, (i + 1) * width - 1) * 4 * SIZE
            next_total = tl.load(input_to_state + following, mask=is_line, other=0.0)
            product = tl.sum(weight_left * left + weight_up * up, axis=1)  # (4h,)
            total += tl.reshape(product, (1, 4 * PADDED))
            activated, left, carried = _cell_forward(total, carried, 1, PADDED)
            tl.store(gates + pixel * 4 * SIZE, activated, mask=is_line)
            tl.store(hidden + place, left, mask=is_channel)
            tl.store(cell + place, carried, mask=is_channel)


@triton.jit
def diagonal_backward(
    gates, cell, d_hidden, d_gates, d_initial_cell, weights, num_directions, height, width,
    SIZE: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """Fill the gradients of the pre-activations and, row by row, of the initial cell state."""
    channels, lines = _channels_and_lines(PADDED)
    is_channel, is_line = channels < SIZE, lines < 4 * SIZE
    weight_left, weight_up = _load_weights(weights, num_directions, SIZE, PADDED)
    row_length = (width + 2) * SIZE
    gates = _pixels(gates, height, width, 4 * SIZE) + lines
    d_gates = _pixels(d_gates, height, width, 4 * SIZE) + lines
    d_hidden = _pixels(d_hidden, height, width, SIZE) + channels
    cell = _pixels(cell, height + 1, width + 2, SIZE) + channels
    d_initial_cell = _pixels(d_initial_cell, height, 1, SIZE) + channels
    for step in range(height):
        i = height - 1 - step
        tl.debug_barrier()
        last = (i + 1) * width - 1
        is_below = lines < tl.where(step > 0, 4 * SIZE, 0)  # the last row has none below
        d_right = tl.zeros((1, 4 * PADDED), tl.float32)  # of the pixel to the right
        d_carried = tl.zeros((1, PADDED), tl.float32)
        after = tl.load(cell + (i + 1) * row_length + width * SIZE, mask=is_channel, other=0.0)
        next_gates = tl.load(gates + last * 4 * SIZE, mask=is_line, other=0.0)
        next_below = tl.load(d_gates + (last + width) * 4 * SIZE, mask=is_below, other=0.0)
        next_through = tl.load(d_hidden + last * SIZE, mask=is_channel, other=0.0)
        for back in range(width):
            activated, d_below, through = next_gates, next_below, next_through
            pixel = last - back
            following = tl.maximum(pixel - 1, i * width)
            next_gates = tl.load(gates + following * 4 * SIZE, mask=is_line, other=0.0)
            below_it = d_gates + (following + width) * 4 * SIZE
            next_below = tl.load(below_it, mask=is_below, other=0.0)
            next_through = tl.load(d_hidden + following * SIZE, mask=is_channel, other=0.0)
            place = (i + 1) * row_length + (width - 1 - back) * SIZE
            before = tl.load(cell + place, mask=is_channel, other=0.0)
            right = tl.reshape(d_right, (4 * PADDED, 1))
            below = tl.reshape(d_below, (4 * PADDED, 1))
            product = tl.sum(weight_left * right + weight_up * below, axis=0)  # (h,)
            through += tl.reshape(product, (1, PADDED))
            d_right, d_carried = _cell_backward(
                activated, after, before, through, d_carried, 1, PADDED
            )
            tl.store(d_gates + pixel * 4 * SIZE, d_right, mask=is_line)
            after = before
        tl.store(d_initial_cell + i * SIZE, d_carried, mask=is_channel)


@triton.jit
def row_forward(
    input_to_state, gates, hidden, cell, weights, height, width,
    SIZE: tl.constexpr, PADDED: tl.constexpr, COLUMNS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Fill the gate map and the state maps of a Row LSTM, a block of columns at a time."""
    channels, lines = _channels_and_lines(PADDED)
    row_length = (width + 2) * SIZE
    input_to_state = _pixels(input_to_state, height, width, 4 * SIZE)
    gates = _pixels(gates, height, width, 4 * SIZE)
    hidden = _pixels(hidden, height + 1, width + 2, SIZE)
    cell = _pixels(cell, height + 1, width + 2, SIZE)
    for i in range(height):
        tl.debug_barrier()
        for first in range(0, width, COLUMNS):
            columns = first + tl.arange(0, COLUMNS)[:, None]
            is_line = (columns < width) & (lines < 4 * SIZE)
            is_channel = (columns < width) & (channels < SIZE)
            pixels = (i * width + columns) * 4 * SIZE + lines
            total = tl.load(input_to_state + pixels, mask=is_line, other=0.0)  # (COLUMNS, 4h)
            for neighbour in range(3):
                states = hidden + i * row_length + (columns + neighbour) * SIZE
                matrix = weights + (neighbour * 4 * SIZE + lines) * SIZE
                for start in range(0, PADDED, CHUNK):
                    some = start + tl.arange(0, CHUNK)
                    above = tl.load(
                        states + some[None, :],
                        mask=(columns < width) & (some < SIZE)[None, :],
                        other=0.0,
                    )  # (COLUMNS, CHUNK)
                    weight = tl.load(
                        matrix + some[:, None],
                        mask=(lines < 4 * SIZE) & (some < SIZE)[:, None],
                        other=0.0,
                    )  # (CHUNK, 4h)
                    total = tl.dot(above, weight, total, input_precision="ieee")
            places = (i + 1) * row_length + (columns + 1) * SIZE + channels
            carried = tl.load(cell + places - row_length, mask=is_channel, other=0.0)
            activated, state, carried = _cell_forward(total, carried, COLUMNS, PADDED)
            tl.store(gates + pixels, activated, mask=is_line)
            tl.store(hidden + places, state, mask=is_channel)
            tl.store(cell + places, carried, mask=is_channel)


@triton.jit
def row_backward(
    gates, cell, d_hidden, d_gates, d_cell, weights, height, width,
    SIZE: tl.constexpr, PADDED: tl.constexpr, COLUMNS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Fill the gradients of the pre-activations and, for each pixel, of the cell state above it."""
    channels, lines = _channels_and_lines(PADDED)
    row_length = (width + 2) * SIZE
    gates = _pixels(gates, height, width, 4 * SIZE)
    d_gates = _pixels(d_gates, height, width, 4 * SIZE)
    d_hidden = _pixels(d_hidden, height, width, SIZE)
    d_cell = _pixels(d_cell, height, width, SIZE)
    cell = _pixels(cell, height + 1, width + 2, SIZE)
    for step in range(height):
        i = height - 1 - step
        width_below = tl.where(step > 0, width, 0)  # the last row has none below
        tl.debug_barrier()
        for first in range(0, width, COLUMNS):
            columns = first + tl.arange(0, COLUMNS)[:, None]
            is_line = (columns < width) & (lines < 4 * SIZE)
            is_channel = (columns < width) & (channels < SIZE)
            states = (i * width + columns) * SIZE + channels
            through = tl.load(d_hidden + states, mask=is_channel, other=0.0)  # (COLUMNS, h)
            for neighbour in range(3):
                sources = columns + 1 - neighbour  # whose neighbour this pixel is
                is_source = (sources >= 0) & (sources < width_below)
                gradients = d_gates + ((i + 1) * width + sources) * 4 * SIZE
                matrix = weights + neighbour * 4 * SIZE * SIZE + channels
                for start in range(0, 4 * PADDED, CHUNK):
                    some = start + tl.arange(0, CHUNK)
                    d_below = tl.load(
                        gradients + some[None, :],
                        mask=is_source & (some < 4 * SIZE)[None, :],
                        other=0.0,
                    )  # (COLUMNS, CHUNK)
                    weight = tl.load(
                        matrix + some[:, None] * SIZE,
                        mask=(channels < SIZE) & (some < 4 * SIZE)[:, None],
                        other=0.0,
                    )  # (CHUNK, h)
                    through = tl.dot(d_below, weight, through, input_precision="ieee")
            is_carried = is_channel & (columns < width_below)
            d_carried = tl.load(d_cell + states + width * SIZE, mask=is_carried, other=0.0)
            places = (i + 1) * row_length + (columns + 1) * SIZE + channels
            after = tl.load(cell + places, mask=is_channel, other=0.0)
            before = tl.load(cell + places - row_length, mask=is_channel, other=0.0)
            pixels = (i * width + columns) * 4 * SIZE + lines
            activated = tl.load(gates + pixels, mask=is_line, other=0.0)
            gradient, d_carried = _cell_backward(
                activated, after, before, through, d_carried, COLUMNS, PADDED
            )
            tl.store(d_gates + pixels, gradient, mask=is_line)
            tl.store(d_cell + states, d_carried, mask=is_channel)


@triton.jit
def _channels_and_lines(PADDED: tl.constexpr):
    """Return the numbers of a cell's channels, (1, h), and of its gates, (1, 4h)."""
    return tl.arange(0, PADDED)[None, :], tl.arange(0, 4 * PADDED)[None, :]


@triton.jit
def _pixels(maps, num_rows, num_columns, CHANNELS: tl.constexpr):
    """Return where this program's part of maps (program, rows, columns, channels) begins."""
    return maps + tl.program_id(0).to(tl.int64) * num_rows * num_columns * CHANNELS


@triton.jit
def _load_weights(weights, num_directions, SIZE: tl.constexpr, PADDED: tl.constexpr):
    """Return the left and the upper neighbour's weights in this program's direction, (4h, h) each."""
    direction = tl.program_id(0).to(tl.int64) % num_directions
    lines = tl.arange(0, 4 * PADDED)[:, None]
    channels = tl.arange(0, PADDED)[None, :]
    left = weights + direction * 8 * SIZE * SIZE + lines * SIZE + channels
    is_weight = (lines < 4 * SIZE) & (channels < SIZE)
    weight_left = tl.load(left, mask=is_weight, other=0.0)
    weight_up = tl.load(left + 4 * SIZE * SIZE, mask=is_weight, other=0.0)
    return weight_left, weight_up


@triton.jit
def _cell_forward(gates, carried, ROWS: tl.constexpr, PADDED: tl.constexpr):
    """Return activated gates (ROWS, 4h), hidden and cell states (ROWS, h)."""
    output, forget, admit, content = _split_gates(gates, ROWS, PADDED)
    output, forget, admit = tl.sigmoid(output), tl.sigmoid(forget), tl.sigmoid(admit)
    content = _tanh(content)
    cell = forget * carried + admit * content
    activated = _join_gates(output, forget, admit, content, ROWS, PADDED)
    return activated, output * _tanh(cell), cell


@triton.jit
def _cell_backward(
    gates, cell, before, d_hidden, d_cell,
    ROWS: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """Return the gradients of the pre-activations (ROWS, 4h) and of the cell state before."""
    output, forget, admit, content = _split_gates(gates, ROWS, PADDED)
    squashed = _tanh(cell)
    d_cell += d_hidden * output * (1 - squashed * squashed)
    d_output = d_hidden * squashed * output * (1 - output)
    d_forget = d_cell * before * forget * (1 - forget)
    d_admit = d_cell * content * admit * (1 - admit)
    d_content = d_cell * admit * (1 - content * content)
    d_gates = _join_gates(d_output, d_forget, d_admit, d_content, ROWS, PADDED)
    return d_gates, d_cell * forget


@triton.jit
def _split_gates(gates, ROWS: tl.constexpr, PADDED: tl.constexpr):
    """Return o, f, i, g, (ROWS, h) each, from (ROWS, 4h)."""
    even, odd = tl.split(tl.reshape(gates, (ROWS, PADDED, 2, 2)))
    output, admit = tl.split(even)
    forget, content = tl.split(odd)
    return output, forget, admit, content


@triton.jit
def _join_gates(
    output, forget, admit, content,
    ROWS: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """Undo `_split_gates`."""
    pairs = tl.join(tl.join(output, admit), tl.join(forget, content))
    return tl.reshape(pairs, (ROWS, 4 * PADDED))


@triton.jit
def _tanh(x):
    # Accurate to 2e-7 in absolute terms; the exact function is not in Triton's own language.
    return 2 * tl.sigmoid(2 * x) - 1
