"""The inner loops of compiled plans: sixteen lanes at a time for float32, plain loops for float64.

Numba chooses by the arrays' type when it compiles. The vectors are those of the recurrences (`raypixel.kernels.simd`).
"""
# mypy: allow-untyped-defs, allow-untyped-calls
# Numba's overloads list the arguments for their types.
# ruff: noqa: ARG001

import math
from pathlib import Path
from typing import Any

from numba import njit, types
from numba.extending import overload

from raypixel.kernels import simd
from raypixel.kernels.compilation import drop_stale_code
from raypixel.kernels.simd import LANES, as_floats, clamp, fma, load, number, spread, store, total

__all__ = [
    "LANES",
    "add",
    "compiled",
    "copy",
    "elus",
    "exps",
    "gather",
    "mix",
    "multiply",
    "score",
    "sigmoids",
    "tanhs",
]

drop_stale_code(Path(__file__).parent)


def compiled(function: Any) -> Any:
    """Compile a function on first use, without Python's lock, and keep the code on disk where that can be written."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # neither this folder nor the user's cache folder can be written
        return njit(nogil=True)(function)


def multiply(outputs, inputs, num_places, size, weights, at, num_blocks):
    """Add inputs times weights to outputs, place by place.

    The additions of one output are those of `size` products, one after another, each multiplication and addition rounded once:
    the same bits whatever else is in the tile.

    Args:
        outputs: num_places times num_blocks * LANES numbers.
        inputs: num_places times size numbers.
        num_places: Places.
        size: Inputs of a place.
        weights: From `at` on, for each block of LANES outputs, size times LANES numbers.
        at: Where these weights begin.
        num_blocks: Blocks of outputs.
    """
    raise NotImplementedError("compiled code only")


def gather(values, at, flat, base, size, rectifies):
    """Copy numbers from a flat array to values[at:], through a ReLU if so; the next fifteen may change too."""
    raise NotImplementedError("compiled code only")


def add(values, at, flat, base, size):
    """Add numbers of a flat array to values[at:]; the next fifteen may change too."""
    raise NotImplementedError("compiled code only")


def copy(flat, base, values, at, size):
    """Copy numbers of values[at:] to a flat array, and nothing after them."""
    raise NotImplementedError("compiled code only")


def score(scores, at, flat, base, step, count, query, size, scale):
    """Write scale times the products of a query with keys, `step` apart, to scores[at:].

    A query has zeros up to a whole vector: what stands behind a key is read and does not count.
    """
    raise NotImplementedError("compiled code only")


def exps(scores, count, largest):
    """Replace the first numbers x by e^(x - largest), the next fifteen by anything, and return their sum."""
    raise NotImplementedError("compiled code only")


def mix(sums, scores, at, flat, base, step, count, size):
    """Add values, `step` apart, times scores[at:] to sums; the fifteen after them may change too."""
    raise NotImplementedError("compiled code only")


def elus(buffer, size):
    """Replace the first numbers x by x where positive, else e^x - 1; the next fifteen may change too."""
    raise NotImplementedError("compiled code only")


def sigmoids(buffer, size):
    """Replace the first numbers by their sigmoid; the next fifteen may change too."""
    raise NotImplementedError("compiled code only")


def tanhs(buffer, size):
    """Replace the first numbers by their tanh; the next fifteen may change too."""
    raise NotImplementedError("compiled code only")


def _multiply_lanes(outputs, inputs, num_places, size, weights, at, num_blocks):
    # A tile is what fits the registers: one block of outputs of four places, which load its weights once; or, of a place or two
    # alone, more blocks, so that an addition need not wait for the one before it.
    y, x = as_floats(outputs.ctypes.data), as_floats(inputs.ctypes.data)
    w = as_floats(weights.ctypes.data)
    width, block = num_blocks * 16, size * 16
    place = 0
    if num_places >= 4:
        for b in range(num_blocks):
            place = 0
            while place + 4 <= num_places:
                o, i = place * width + b * 16, place * size
                first, second = load(y, o), load(y, o + width)
                third, fourth = load(y, o + 2 * width), load(y, o + 3 * width)
                p = at + b * block
                for k in range(i, i + size):
                    v = load(w, p)
                    first = fma(spread(x, k), v, first)
                    second = fma(spread(x, k + size), v, second)
                    third = fma(spread(x, k + 2 * size), v, third)
                    fourth = fma(spread(x, k + 3 * size), v, fourth)
                    p += 16
                store(y, o, first)
                store(y, o + width, second)
                store(y, o + 2 * width, third)
                store(y, o + 3 * width, fourth)
                place += 4
    if place + 2 <= num_places:
        i = place * size
        b = 0
        while b + 2 <= num_blocks:
            o, p = place * width + b * 16, at + b * block
            first, second = load(y, o), load(y, o + 16)
            third, fourth = load(y, o + width), load(y, o + width + 16)
            for k in range(i, i + size):
                u, v = load(w, p), load(w, p + block)
                one, two = spread(x, k), spread(x, k + size)
                first = fma(one, u, first)
                second = fma(one, v, second)
                third = fma(two, u, third)
                fourth = fma(two, v, fourth)
                p += 16
            store(y, o, first)
            store(y, o + 16, second)
            store(y, o + width, third)
            store(y, o + width + 16, fourth)
            b += 2
        if b < num_blocks:
            o, p = place * width + b * 16, at + b * block
            first, third = load(y, o), load(y, o + width)
            for k in range(i, i + size):
                u = load(w, p)
                first = fma(spread(x, k), u, first)
                third = fma(spread(x, k + size), u, third)
                p += 16
            store(y, o, first)
            store(y, o + width, third)
        place += 2
    if place < num_places:
        i = place * size
        b = 0
        while b + 4 <= num_blocks:
            o, p = place * width + b * 16, at + b * block
            first, second = load(y, o), load(y, o + 16)
            third, fourth = load(y, o + 32), load(y, o + 48)
            for k in range(i, i + size):
                one = spread(x, k)
                first = fma(one, load(w, p), first)
                second = fma(one, load(w, p + block), second)
                third = fma(one, load(w, p + 2 * block), third)
                fourth = fma(one, load(w, p + 3 * block), fourth)
                p += 16
            store(y, o, first)
            store(y, o + 16, second)
            store(y, o + 32, third)
            store(y, o + 48, fourth)
            b += 4
        while b + 2 <= num_blocks:
            o, p = place * width + b * 16, at + b * block
            first, second = load(y, o), load(y, o + 16)
            for k in range(i, i + size):
                one = spread(x, k)
                first = fma(one, load(w, p), first)
                second = fma(one, load(w, p + block), second)
                p += 16
            store(y, o, first)
            store(y, o + 16, second)
            b += 2
        if b < num_blocks:
            o, p = place * width + b * 16, at + b * block
            first = load(y, o)
            for k in range(i, i + size):
                first = fma(spread(x, k), load(w, p), first)
                p += 16
            store(y, o, first)


def _multiply_plain(outputs, inputs, num_places, size, weights, at, num_blocks):
    for place in range(num_places):
        for b in range(num_blocks):
            o = (place * num_blocks + b) * 16
            for k in range(size):
                value, p = inputs[place * size + k], at + (b * size + k) * 16
                for lane in range(16):
                    outputs[o + lane] += value * weights[p + lane]


def _gather_lanes(values, at, flat, base, size, rectifies):
    v, m = as_floats(values.ctypes.data), as_floats(flat.ctypes.data)
    low = number(0.0) if rectifies else number(-3.4e38)
    high = number(3.4e38)
    for k in range(0, size, 16):
        store(v, at + k, clamp(load(m, base + k), low, high))


def _gather_plain(values, at, flat, base, size, rectifies):
    for k in range(size):
        value = flat[base + k]
        values[at + k] = 0.0 if rectifies and value < 0.0 else value


def _add_lanes(values, at, flat, base, size):
    v, m = as_floats(values.ctypes.data), as_floats(flat.ctypes.data)
    for k in range(0, size, 16):
        store(v, at + k, load(v, at + k) + load(m, base + k))


def _add_plain(values, at, flat, base, size):
    for k in range(size):
        values[at + k] += flat[base + k]


def _copy_lanes(flat, base, values, at, size):
    m, v = as_floats(flat.ctypes.data), as_floats(values.ctypes.data)
    whole = size // 16 * 16
    for k in range(0, whole, 16):
        store(m, base + k, load(v, at + k))
    for k in range(whole, size):
        flat[base + k] = values[at + k]


def _copy_plain(flat, base, values, at, size):
    for k in range(size):
        flat[base + k] = values[at + k]


def _score_lanes(scores, at, flat, base, step, count, query, size, scale):
    m, q = as_floats(flat.ctypes.data), as_floats(query.ctypes.data)
    for n in range(count):
        place = base + n * step
        products = load(q, 0) * load(m, place)
        for k in range(16, size, 16):
            products = fma(load(q, k), load(m, place + k), products)
        scores[at + n] = total(products) * types.float32(scale)


def _score_plain(scores, at, flat, base, step, count, query, size, scale):
    for n in range(count):
        place, product = base + n * step, 0.0
        for k in range(size):
            product += query[k] * flat[place + k]
        scores[at + n] = product * scale


def _exps_lanes(scores, count, largest):
    s, highest, sums = as_floats(scores.ctypes.data), number(largest), number(0.0)
    for n in range(count, (count + 15) // 16 * 16):
        scores[n] = -math.inf
    for n in range(0, count, 16):
        value = simd.exp(load(s, n) - highest)
        store(s, n, value)
        sums = sums + value
    return float(total(sums))


def _exps_plain(scores, count, largest):
    total = 0.0
    for n in range(count):
        scores[n] = math.exp(scores[n] - largest)
        total += scores[n]
    return total


def _mix_lanes(sums, scores, at, flat, base, step, count, size):
    m, s, w = (
        as_floats(flat.ctypes.data),
        as_floats(sums.ctypes.data),
        as_floats(scores.ctypes.data),
    )
    for o in range(0, size, 16):
        mixed, place = load(s, o), base + o
        for n in range(at, at + count):
            mixed = fma(spread(w, n), load(m, place), mixed)
            place += step
        store(s, o, mixed)


def _mix_plain(sums, scores, at, flat, base, step, count, size):
    for n in range(count):
        place = base + n * step
        for o in range(size):
            sums[o] += scores[at + n] * flat[place + o]


def _elus_lanes(buffer, size):
    b = as_floats(buffer.ctypes.data)
    zero, one, largest = number(0.0), number(1.0), number(3.4e38)
    for o in range(0, size, 16):
        x = load(b, o)
        below, above = clamp(x, number(-87.0), zero), clamp(x, zero, largest)
        store(b, o, above + (simd.exp(below) - one))


def _elus_plain(buffer, size):
    for o in range(size):
        if buffer[o] < 0.0:
            buffer[o] = math.expm1(buffer[o])


def _sigmoids_lanes(buffer, size):
    b = as_floats(buffer.ctypes.data)
    for o in range(0, size, 16):
        store(b, o, simd.sigmoid(load(b, o)))


def _sigmoids_plain(buffer, size):
    for o in range(size):
        buffer[o] = 1.0 / (1.0 + math.exp(-buffer[o]))


def _tanhs_lanes(buffer, size):
    b = as_floats(buffer.ctypes.data)
    for o in range(0, size, 16):
        store(b, o, simd.tanh(load(b, o)))


def _tanhs_plain(buffer, size):
    for o in range(size):
        buffer[o] = math.tanh(buffer[o])


@overload(multiply)
def _choose_multiply(outputs, inputs, num_places, size, weights, at, num_blocks):
    return _multiply_lanes if outputs.dtype == types.float32 else _multiply_plain


@overload(gather)
def _choose_gather(values, at, flat, base, size, rectifies):
    return _gather_lanes if values.dtype == types.float32 else _gather_plain


@overload(add)
def _choose_add(values, at, flat, base, size):
    return _add_lanes if values.dtype == types.float32 else _add_plain


@overload(copy)
def _choose_copy(flat, base, values, at, size):
    return _copy_lanes if values.dtype == types.float32 else _copy_plain


@overload(score)
def _choose_score(scores, at, flat, base, step, count, query, size, scale):
    return _score_lanes if scores.dtype == types.float32 else _score_plain


@overload(exps)
def _choose_exps(scores, count, largest):
    return _exps_lanes if scores.dtype == types.float32 else _exps_plain


@overload(mix)
def _choose_mix(sums, scores, at, flat, base, step, count, size):
    return _mix_lanes if scores.dtype == types.float32 else _mix_plain


@overload(elus)
def _choose_elus(buffer, size):
    return _elus_lanes if buffer.dtype == types.float32 else _elus_plain


@overload(sigmoids)
def _choose_sigmoids(buffer, size):
    return _sigmoids_lanes if buffer.dtype == types.float32 else _sigmoids_plain


@overload(tanhs)
def _choose_tanhs(buffer, size):
    return _tanhs_lanes if buffer.dtype == types.float32 else _tanhs_plain
