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
