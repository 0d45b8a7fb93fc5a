"""The compiled functions that run a flattened plan; see `raypixel.sampling.compiled` for the layout of its tables.

Compiled on first use and kept on disk beside this file, or where Numba's cache may be written. Tables are indexed by
two numbers, never cut into rows: a view of an array costs two atomic operations, as much as a small product.
"""
# mypy: allow-untyped-defs, allow-untyped-calls

import math

import numpy as np

from raypixel.sampling.compiled_loops import (
    LANES,
    accumulate,
    accumulate_all,
    compiled,
    gather,
    sigmoids,
    tanhs,
)

# outputs from which finding the inputs that are zero costs less than their products
WIDE = 128


@compiled
def _linear(flat, weights, ops, op, starts, taps, column, values, places, sums):
    """Compute one product: gather the inputs, of wide products those that are not zero, then add columns of weights."""
    rectifies, bias, place = ops[op, 1], ops[op, 2], ops[op, 3]
    first, num_taps = ops[op, 4], ops[op, 5]
    num_outputs = taps[first, 8] - taps[first, 7]
    padded = (num_outputs + LANES - 1) // LANES * LANES
    skips = rectifies != 0 and padded >= WIDE
    count = 0
    for t in range(first + 1, first + num_taps):
        base, size = starts[t] + column * taps[t, 9], taps[t, 8] - taps[t, 7]
        if not skips:
            gather(values, count, flat, base, size, rectifies != 0)
            count += size
            continue
        for k in range(size):
            value = flat[base + k]
            values[count] = value
            places[count] = place
            count += int(value > 0.0)
            place += padded
    if bias >= 0:
        for o in range(num_outputs):
            sums[o] = weights[bias + o]
    else:
        for o in range(num_outputs):
            sums[o] = 0.0
    for p in range(ops[op, 6], ops[op, 6] + ops[op, 7]):
        base = starts[p] + column * taps[p, 9]
        for o in range(num_outputs):
            sums[o] += flat[base + o]
    if skips:
        accumulate(sums, values, places, count, weights, padded)
    else:
        accumulate_all(sums, values, place, count, weights, padded)
    base = starts[first] + column * taps[first, 9]
    for o in range(num_outputs):
        flat[base + o] = sums[o]


@compiled
def _norm(flat, weights, scale_at, shift_at, base, to, size):
    """Normalize the numbers at base."""
    mean = 0.0
    for o in range(size):
        mean += flat[base + o]
    mean /= size
    variance = 0.0
    for o in range(size):
        variance += (flat[base + o] - mean) ** 2
    scale = 1.0 / math.sqrt(variance / size + weights[shift_at + size])
    for o in range(size):
        normed = (flat[base + o] - mean) * scale
        flat[to + o] = normed * weights[scale_at + o] + weights[shift_at + o]


@compiled
def _gate(flat, base, to, size, opened, content):
    """Compute tanh(first half) * sigmoid(second half)."""
    for o in range(size):
        content[o] = flat[base + o]
        opened[o] = flat[base + size + o]
    tanhs(content, size)
    sigmoids(opened, size)
    for o in range(size):
        flat[to + o] = content[o] * opened[o]


@compiled
def _cell(flat, gates, previous, cell, hidden, size, opened, content):
    """Compute an LSTM cell from gates o, f, i, g."""
    for o in range(3 * size):
        opened[o] = flat[gates + o]
    for o in range(size):
        content[o] = flat[gates + 3 * size + o]
    sigmoids(opened, 3 * size)
    tanhs(content, size)
    for o in range(size):
        state = opened[size + o] * flat[previous + o] + opened[2 * size + o] * content[o]
        flat[cell + o] = state
        content[o] = state
    tanhs(content, size)
    for o in range(size):
        flat[hidden + o] = opened[o] * content[o]


@compiled
def _run(flat, weights, ops, op, starts, taps, column, values, places, sums, content):
    """Run one operation at one position."""
    kind = ops[op, 0]
    if kind == 0:
        _linear(flat, weights, ops, op, starts, taps, column, values, places, sums)
        return
    t = ops[op, 4]
    to = starts[t] + column * taps[t, 9]
    base = starts[t + 1] + column * taps[t + 1, 9]
    size = taps[t, 8] - taps[t, 7]
    if kind == 1:
        _norm(flat, weights, ops[op, 3], ops[op, 2], base, to, size)
    elif kind == 2:
        _gate(flat, base, to, size, sums, content)
    else:
        gates = starts[t + 2] + column * taps[t + 2, 9]
        previous = starts[t + 3] + column * taps[t + 3, 9]
        _cell(flat, gates, previous, base, to, size, sums, content)


@compiled
def _place_row(taps, row, starts):
    """Find where each tap's plane begins in a row, at column 0."""
    for t in range(len(taps)):
        start = taps[t, 0] + taps[t, 7]
        if taps[t, 2]:
            ring = (row - taps[t, 5] + taps[t, 1]) % taps[t, 1]
            start += (ring * taps[t, 2] + taps[t, 3] + taps[t, 6]) * taps[t, 4]
        starts[t] = start


@compiled
def _begin_row(flat, weights, ops, starts, taps, passes, row, width, values, places, sums, content):
    """Run the passes of a row."""
    for each in range(len(passes)):
        first, last = passes[each, 0], passes[each, 1]
        if passes[each, 3] and row == 0:
            continue
        if passes[each, 2]:
            for column in range(width - 1, -1, -1):
                for op in range(first, last):
                    _run(
                        flat, weights, ops, op, starts, taps, column,
                        values, places, sums, content,
                    )  # fmt: skip
        else:
            for op in range(first, last):
                for column in range(width):
                    _run(
                        flat, weights, ops, op, starts, taps, column,
                        values, places, sums, content,
                    )  # fmt: skip


@compiled
def _draw(flat, base, num_params, noise, temperature):
    """Return the level with the largest logit plus noise; one logit means levels 0 and 1."""
    if num_params == 1:
        return 1 if flat[base] / temperature + noise[1] > noise[0] else 0
    best, level = -np.inf, 0
    for k in range(num_params):
        score = flat[base + k] / temperature + noise[k]
        if score > best:
            best, level = score, k
    return level


@compiled
def _longest(ops, taps):
    """Return the numbers that the longest input or output of an operation has, in whole vectors."""
    longest = 1
    for op in range(len(ops)):
        length = 0
        for t in range(ops[op, 4], ops[op, 4] + ops[op, 5]):
            length += taps[t, 8] - taps[t, 7]
        longest = max(longest, length)
    return longest + LANES


@compiled
def advance(
    slots, rows, columns, num_pixels, tables, weights, scan, arrays, num_levels, num_params
):
    """Advance some slots by some pixels each."""
    ops, taps, passes, programs, levels_tap, params_tap, condition_tap = tables
    height, width, stride, first_dimension, given = scan
    flats, x, observed, noise, temperature, condition, kept = arrays
    longest = _longest(ops, taps)
    values = np.zeros(longest, dtype=flats.dtype)
    sums = np.zeros(longest, dtype=flats.dtype)
    content = np.zeros(longest, dtype=flats.dtype)
    places = np.zeros(longest, dtype=np.int64)
    starts = np.zeros(len(taps), dtype=np.int64)
    for slot in slots:
        flat = flats[slot]
        row, column = rows[slot], columns[slot]
        _place_row(taps, row, starts)
        for _ in range(num_pixels):
            if row == height:
                break
            if column == 0:
                _place_row(taps, row, starts)
                for j in range(width if condition_tap >= 0 else 0):
                    base = starts[condition_tap] + j * taps[condition_tap, 9]
                    for k in range(condition.shape[3]):
                        flat[base + k] = condition[slot, row, j, k]
                _begin_row(
                    flat, weights, ops, starts, taps, passes, row, width,
                    values, places, sums, content,
                )  # fmt: skip
            is_given = given.shape[0] > 0 and given[row, column]
            i, j = row * stride, column * stride
            for c in range(x.shape[1]):
                if c < len(programs):
                    for op in range(programs[c, 0], programs[c, 1]):
                        _run(
                            flat, weights, ops, op, starts, taps, column,
                            values, places, sums, content,
                        )  # fmt: skip
                params = starts[params_tap] + column * taps[params_tap, 9] + c * num_params
                if kept.shape[0] and not is_given:
                    for k in range(num_params):
                        kept[slot, k, c, i, j] = flat[params + k]
                if not (is_given or observed[slot, c, i, j]):
                    dimension = first_dimension[row, column] + c
                    x[slot, c, i, j] = _draw(
                        flat, params, num_params, noise[slot, dimension], temperature[slot]
                    )
                level = x[slot, c, i, j] * (2.0 / (num_levels - 1)) - 1.0
                flat[starts[levels_tap] + column * taps[levels_tap, 9] + c] = level
            column += 1
            if column == width:
                row, column = row + 1, 0
        rows[slot], columns[slot] = row, column
