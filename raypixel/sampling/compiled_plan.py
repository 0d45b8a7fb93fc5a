"""The compiled functions that run a flattened plan; see `raypixel.sampling.compiled` for the layout of its tables.

An operation runs over places: all images of a thread at their next pixel, wherever each stands, and in a row that begins all its
columns too. So a weight is loaded once for several products. What a place computes does not depend on the other places.
Compiled on first use and kept on disk beside this file, or where Numba's cache may be written. Tables are indexed by
two numbers, never cut into rows: a view of an array costs two atomic operations, as much as a small product.
"""
# mypy: allow-untyped-defs, allow-untyped-calls
# The inner loops take plain positional arguments.
# ruff: noqa: FBT003

import math

import numpy as np

from raypixel.sampling.compiled_draws import draw, draw_mixture
from raypixel.sampling.compiled_loops import (
    LANES,
    add,
    compiled,
    copy,
    elus,
    exps,
    gather,
    mix,
    score,
    sigmoids,
    tanhs,
)
from raypixel.sampling.compiled_products import multiply

# places whose inputs are gathered together, and how many inputs they may have: those of a tile stay in the cache
MOST_PLACES = 64
MOST_INPUTS = 32768


@compiled
def _at(starts, taps, t, image, column):
    """Return where a tap begins at a place."""
    return starts[image, t] + (column >> taps[t, 10]) * taps[t, 9]


@compiled
def _linear(flat, weights, ops, op, starts, taps, images, columns, num_places, buffers):
    """Compute a product: gather the inputs of some places, add the blocks of weights, and spread the results."""
    inputs, outputs = buffers[0], buffers[1]
    rectifies, bias, weight = ops[op, 1] != 0, ops[op, 2], ops[op, 3]
    first, num_taps = ops[op, 4], ops[op, 5]
    num_outputs = taps[first, 8] - taps[first, 7]
    num_blocks = (num_outputs + LANES - 1) // LANES
    padded = num_blocks * LANES
    size = np.int64(0)
    for t in range(first + 1, first + num_taps):
        size += taps[t, 8] - taps[t, 7]
    most = min(MOST_PLACES, max(4, MOST_INPUTS // max(size, padded) // 4 * 4))
    for start in range(0, num_places, most):
        count = min(most, num_places - start)
        filled = np.int64(0)
        for place in range(start, start + count):
            image, column = images[place], columns[place]
            for t in range(first + 1, first + num_taps):
                length = taps[t, 8] - taps[t, 7]
                base = _at(starts, taps, t, image, column)
                gather(inputs, filled, flat, base, length, rectifies)
                filled += length
            o = (place - start) * padded
            if bias >= 0:
                gather(outputs, o, weights, bias, num_outputs, False)
            else:
                for k in range(o, o + padded):
                    outputs[k] = 0.0
            for p in range(ops[op, 6], ops[op, 6] + ops[op, 7]):
                add(outputs, o, flat, _at(starts, taps, p, image, column), num_outputs)
        if size:
            multiply(outputs, inputs, count, size, weights, weight, num_blocks)
        for place in range(start, start + count):
            base = _at(starts, taps, first, images[place], columns[place])
            copy(flat, base, outputs, (place - start) * padded, num_outputs)


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
def _gate(flat, base, to, plus, size, is_linear, opened, content):
    """Compute tanh(first half), or the first half, * sigmoid(second half), and add what stands at `plus`, if it is not -1."""
    gather(content, 0, flat, base, size, False)
    gather(opened, 0, flat, base + size, size, False)
    if not is_linear:
        tanhs(content, size)
    sigmoids(opened, size)
    for o in range(size):
        content[o] *= opened[o]
    if plus >= 0:
        add(content, 0, flat, plus, size)
    copy(flat, to, content, 0, size)


@compiled
def _cell(flat, gates, previous, cell, hidden, size, opened, content):
    """Compute an LSTM cell from gates o, f, i, g."""
    gather(opened, 0, flat, gates, 3 * size, False)
    gather(content, 0, flat, gates + 3 * size, size, False)
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
def _elu(flat, base, to, size, width, content):
    """Compute elu of the numbers at base, and of the same negated if the result is wider."""
    gather(content, 0, flat, base, size, False)
    for o in range(size, width):
        content[o] = -content[o - size]
    elus(content, width)
    copy(flat, to, content, 0, width)


@compiled
def _attend(flat, taps, t, starts, image, column, row, num_heads, scores, sums, query):
    """Compute attention at a place: taps are target, query, keys and values, whose plane keeps nothing at the sides."""
    to, asked = _at(starts, taps, t, image, column), _at(starts, taps, t + 1, image, column)
    key_size = (taps[t + 2, 8] - taps[t + 2, 7]) // num_heads
    value_size = (taps[t + 3, 8] - taps[t + 3, 7]) // num_heads
    ring, width, step = taps[t + 2, 1], taps[t + 2, 2], taps[t + 2, 4]
    # where key and value of the first column lie in the first row of the ring
    own = (row % ring) * width * step
    keys, values = starts[image, t + 2] - own, starts[image, t + 3] - own
    first = max(0, row - ring + 1)
    num_seen = (row - first) * width + column
    for head in range(num_heads):
        gather(query, 0, flat, asked + head * key_size, key_size, False)
        for k in range(key_size, (key_size + LANES - 1) // LANES * LANES):
            query[k] = 0.0
        for o in range(value_size):
            sums[o] = 0.0
        for i in range(first, row + 1):
            base = keys + (i % ring) * width * step + head * key_size
            count, at = column if i == row else width, (i - first) * width
            scale = 1.0 / math.sqrt(key_size)
            score(scores, at, flat, base, step, count, query, key_size, scale)
        largest = -np.inf
        for n in range(num_seen):
            largest = max(largest, scores[n])
        if num_seen:
            weight = exps(scores, num_seen, largest)
            for i in range(first, row + 1):
                base = values + (i % ring) * width * step + head * value_size
                count, at = column if i == row else width, (i - first) * width
                mix(sums, scores, at, flat, base, step, count, value_size)
            for o in range(value_size):
                sums[o] /= weight
        copy(flat, to + head * value_size, sums, 0, value_size)


@compiled
def _run(flat, weights, ops, op, starts, taps, images, columns, rows, num_places, buffers):
    """Run one operation at places: images, by their number in the thread, and columns."""
    kind = ops[op, 0]
    if kind == 0:
        _linear(flat, weights, ops, op, starts, taps, images, columns, num_places, buffers)
        return
    opened, content = buffers[1], buffers[2]
    t = ops[op, 4]
    size = taps[t, 8] - taps[t, 7]
    for place in range(num_places):
        image, column = images[place], columns[place]
        to = _at(starts, taps, t, image, column)
        base = _at(starts, taps, t + 1, image, column)
        if kind == 1:
            _norm(flat, weights, ops[op, 3], ops[op, 2], base, to, size)
        elif kind == 2:
            plus = _at(starts, taps, ops[op, 6], image, column) if ops[op, 7] else -1
            _gate(flat, base, to, plus, size, ops[op, 1] != 0, opened, content)
        elif kind == 3:
            gates = _at(starts, taps, t + 2, image, column)
            previous = _at(starts, taps, t + 3, image, column)
            _cell(flat, gates, previous, base, to, size, opened, content)
        elif kind == 4:
            _elu(flat, base, to, taps[t + 1, 8] - taps[t + 1, 7], size, content)
        else:
            _attend(
                flat, taps, t, starts, image, column, rows[image], ops[op, 11],
                buffers[0], opened, content,
            )  # fmt: skip


@compiled
def _place_row(taps, row, offset, image, starts):
    """Find where each tap's plane begins in an image's row, at column 0; the image's numbers begin at an offset."""
    for t in range(len(taps)):
        start = offset + taps[t, 0] + taps[t, 7]
        if taps[t, 2]:
            ring = ((row >> taps[t, 10]) - taps[t, 5] + taps[t, 1]) % taps[t, 1]
            start += (ring * taps[t, 2] + taps[t, 3] + taps[t, 6]) * taps[t, 4]
        starts[image, t] = start


@compiled
def _begin_rows(
    flat, weights, ops, starts, taps, passes, rows, width, begun, num_begun, images, columns, buffers
):  # fmt: skip
    """Run the passes of rows that begin, of the images in `begun`."""
    for each in range(len(passes)):
        first, last, is_leftwards = passes[each, 0], passes[each, 1], passes[each, 2] != 0
        step, offset, first_column = ops[first, 8] + 1, ops[first, 9], ops[first, 10]
        # all columns together, or one after another from the right
        for turn in range(width if is_leftwards else 1):
            count = np.int64(0)  # not a literal, for which all would be compiled again
            for n in range(num_begun):
                row = rows[begun[n]]
                if (row & (step - 1)) != offset or (passes[each, 3] and row == 0):
                    continue
                begin = width - 1 - turn if is_leftwards else first_column
                for column in range(begin, begin + 1 if is_leftwards else width, step):
                    images[count], columns[count] = begun[n], column
                    count += 1
            for op in range(first, last):
                _run(
                    flat, weights, ops, op, starts, taps, images, columns, rows, count, buffers
                )  # fmt: skip


@compiled
def _run_steps(
    flat, weights, ops, first, last, starts, taps, rows, at, active, num_active, images, columns,
    buffers,
):  # fmt: skip
    """Run operations at the next pixel of each active image, of those that stand where the operation runs."""
    for op in range(first, last):
        mask, row, column = ops[op, 8], ops[op, 9], ops[op, 10]
        count = np.int64(0)
        for n in range(num_active):
            image = active[n]
            if (rows[image] & mask) == row and (at[image] & mask) == column:
                images[count], columns[count] = image, at[image]
                count += 1
        if count:
            _run(flat, weights, ops, op, starts, taps, images, columns, rows, count, buffers)


@compiled
def _longest(ops, taps, width):
    """Return the numbers that one place's inputs or outputs have at most, in whole vectors, or its scores of attention."""
    longest = 1
    for op in range(len(ops)):
        length = 0
        for t in range(ops[op, 4], ops[op, 4] + ops[op, 5]):
            length += taps[t, 8] - taps[t, 7]
        longest = max(longest, length)
        if ops[op, 0] == 5:
            longest = max(longest, taps[ops[op, 4] + 2, 1] * width)
    return longest + LANES


@compiled
def advance(
    slots, rows_of, columns_of, num_pixels, tables, weights, scan, arrays, num_levels, num_params,
    num_mixtures,
):  # fmt: skip
    """Advance some slots by some pixels each, together."""
    ops, taps, passes, programs, ends, levels_tap, params_tap, condition_tap = tables
    height, width, stride, first_dimension, given = scan
    flats, x, observed, noise, temperature, condition, kept = arrays
    flat, num_numbers = flats.reshape(-1), flats.shape[1]
    longest = _longest(ops, taps, width)
    room = max(MOST_INPUTS, 4 * longest) + MOST_PLACES * LANES + LANES
    inputs, outputs = np.zeros(room, dtype=flats.dtype), np.zeros(room, dtype=flats.dtype)
    buffers = (inputs, outputs, np.zeros(longest + LANES, dtype=flats.dtype))
    probabilities, logits = np.zeros(num_levels), np.zeros(max(num_mixtures, 1))
    count = len(slots)
    starts = np.zeros((count, len(taps)), dtype=np.int64)
    rows, at = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    images = np.zeros(count * width, dtype=np.int64)
    columns = np.zeros(count * width, dtype=np.int64)
    active, begun = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    for image in range(count):
        rows[image], at[image] = rows_of[slots[image]], columns_of[slots[image]]
        _place_row(taps, rows[image], slots[image] * num_numbers, image, starts)
    for _ in range(num_pixels):
        num_active, num_begun = np.int64(0), np.int64(0)
        for image in range(count):
            row, slot = rows[image], slots[image]
            if row == height:
                continue
            active[num_active] = image
            num_active += 1
            if at[image] == 0:
                begun[num_begun] = image
                num_begun += 1
                _place_row(taps, row, slot * num_numbers, image, starts)
                for j in range(width if condition_tap >= 0 else 0):
                    base = _at(starts, taps, condition_tap, image, j)
                    for k in range(condition.shape[3]):
                        flat[base + k] = condition[slot, row, j, k]
        if num_begun:
            _begin_rows(
                flat, weights, ops, starts, taps, passes, rows, width, begun, num_begun, images,
                columns, buffers,
            )  # fmt: skip
        for c in range(x.shape[1] + 1):
            # the sub-steps of the colour groups, and after the last channel what reads the pixel's own levels
            first, last = ends[0], ends[1]
            if c < x.shape[1]:
                first, last = (programs[c, 0], programs[c, 1]) if c < len(programs) else (0, 0)
            _run_steps(
                flat, weights, ops, first, last, starts, taps, rows, at, active, num_active,
                images, columns, buffers,
            )  # fmt: skip
            for n in range(num_active if c < x.shape[1] else 0):
                image = active[n]
                slot, row, column = slots[image], rows[image], at[image]
                is_given = given.shape[0] > 0 and given[row, column]
                i, j = row * stride, column * stride
                params = _at(starts, taps, params_tap, image, column)
                if kept.shape[0] and not is_given:
                    for k in range(kept.shape[1]):
                        kept[slot, k, c, i, j] = flat[params + c * num_params + k]
                if not (is_given or observed[slot, c, i, j]):
                    own = noise[slot, first_dimension[row, column] + c]
                    if num_mixtures:
                        level = draw_mixture(
                            flat, params, num_mixtures, x, slot, c, i, j, own, temperature[slot],
                            num_levels - 1, logits, probabilities,
                        )  # fmt: skip
                    else:
                        params += c * num_params
                        level = draw(flat, params, num_params, own, temperature[slot])
                    x[slot, c, i, j] = level
                scaled = x[slot, c, i, j] * (2.0 / (num_levels - 1)) - 1.0
                flat[_at(starts, taps, levels_tap, image, column) + c] = scaled
        for n in range(num_active):
            image = active[n]
            at[image] += 1
            if at[image] == width:
                rows[image], at[image] = rows[image] + 1, 0
    for image in range(count):
        rows_of[slots[image]], columns_of[slots[image]] = rows[image], at[image]
