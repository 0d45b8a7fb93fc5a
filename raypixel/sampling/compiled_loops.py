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
from raypixel.kernels.simd import LANES, as_floats, broadcast, clamp, fma, load, number, store

__all__ = ["LANES", "accumulate", "accumulate_all", "compiled", "gather", "sigmoids", "tanhs"]

drop_stale_code(Path(__file__).parent)


def compiled(function: Any) -> Any:
    """Compile a function on first use, without Python's lock, and keep the code on disk where that can be written."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # neither this folder nor the user's cache folder can be written
        return njit(nogil=True)(function)


def accumulate(sums, values, places, count, weights, padded):
    """Add values[k] * weights[places[k] : places[k] + padded] to sums, for k < count."""
    raise NotImplementedError("compiled code only")


def accumulate_all(sums, values, place, count, weights, padded):
    """Add values[k] * weights[place + k * padded : place + (k + 1) * padded] to sums, for k < count."""
    raise NotImplementedError("compiled code only")


def gather(values, at, flat, base, size, rectifies):
    """Copy numbers from a flat array to values[at:], through a ReLU if so; the next fifteen may change too."""
    raise NotImplementedError("compiled code only")


def sigmoids(buffer, size):
    """Replace the first numbers by their sigmoid; the next fifteen may change too."""
    raise NotImplementedError("compiled code only")


def tanhs(buffer, size):
    """Replace the first numbers by their tanh; the next fifteen may change too."""
    raise NotImplementedError("compiled code only")


def _accumulate_lanes(sums, values, places, count, weights, padded):
    w, s = as_floats(weights.ctypes.data), as_floats(sums.ctypes.data)
    o = 0
    while o + 32 <= padded:
        a, b = load(s, o), load(s, o + 16)
        c, d = number(0.0), number(0.0)
        k = 0
        while k + 2 <= count:
            first, second = broadcast(values[k]), broadcast(values[k + 1])
            p, q = places[k] + o, places[k + 1] + o
            a = fma(first, load(w, p), a)
            b = fma(first, load(w, p + 16), b)
            c = fma(second, load(w, q), c)
            d = fma(second, load(w, q + 16), d)
            k += 2
        if k < count:
            first, p = broadcast(values[k]), places[k] + o
            a = fma(first, load(w, p), a)
            b = fma(first, load(w, p + 16), b)
        store(s, o, a + c)
        store(s, o + 16, b + d)
        o += 32
    if o < padded:
        a, b = load(s, o), number(0.0)
        c, d = number(0.0), number(0.0)
        k = 0
        while k + 4 <= count:
            a = fma(broadcast(values[k]), load(w, places[k] + o), a)
            b = fma(broadcast(values[k + 1]), load(w, places[k + 1] + o), b)
            c = fma(broadcast(values[k + 2]), load(w, places[k + 2] + o), c)
            d = fma(broadcast(values[k + 3]), load(w, places[k + 3] + o), d)
            k += 4
        while k < count:
            a = fma(broadcast(values[k]), load(w, places[k] + o), a)
            k += 1
        store(s, o, (a + b) + (c + d))


def _accumulate_plain(sums, values, places, count, weights, padded):
    for k in range(count):
        value, place = values[k], places[k]
        for o in range(padded):
            sums[o] += value * weights[place + o]


def _accumulate_all_lanes(sums, values, place, count, weights, padded):
    w, s = as_floats(weights.ctypes.data), as_floats(sums.ctypes.data)
    o = 0
    while o + 32 <= padded:
        a, b = load(s, o), load(s, o + 16)
        c, d = number(0.0), number(0.0)
        p = place + o
        k = 0
        while k + 2 <= count:
            first, second = broadcast(values[k]), broadcast(values[k + 1])
            a = fma(first, load(w, p), a)
            b = fma(first, load(w, p + 16), b)
            c = fma(second, load(w, p + padded), c)
            d = fma(second, load(w, p + padded + 16), d)
            p += 2 * padded
            k += 2
        if k < count:
            first = broadcast(values[k])
            a = fma(first, load(w, p), a)
            b = fma(first, load(w, p + 16), b)
        store(s, o, a + c)
        store(s, o + 16, b + d)
        o += 32
    if o < padded:
        a, b = load(s, o), number(0.0)
        c, d = number(0.0), number(0.0)
        p = place + o
        k = 0
        while k + 4 <= count:
            a = fma(broadcast(values[k]), load(w, p), a)
            b = fma(broadcast(values[k + 1]), load(w, p + padded), b)
            c = fma(broadcast(values[k + 2]), load(w, p + 2 * padded), c)
            d = fma(broadcast(values[k + 3]), load(w, p + 3 * padded), d)
            p += 4 * padded
            k += 4
        while k < count:
            a = fma(broadcast(values[k]), load(w, p), a)
            p += padded
            k += 1
        store(s, o, (a + b) + (c + d))


def _accumulate_all_plain(sums, values, place, count, weights, padded):
    for k in range(count):
        for o in range(padded):
            sums[o] += values[k] * weights[place + k * padded + o]


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


@overload(accumulate)
def _choose_accumulate(sums, values, places, count, weights, padded):
    return _accumulate_lanes if sums.dtype == types.float32 else _accumulate_plain


@overload(accumulate_all)
def _choose_accumulate_all(sums, values, place, count, weights, padded):
    return _accumulate_all_lanes if sums.dtype == types.float32 else _accumulate_all_plain


@overload(gather)
def _choose_gather(values, at, flat, base, size, rectifies):
    return _gather_lanes if values.dtype == types.float32 else _gather_plain


@overload(sigmoids)
def _choose_sigmoids(buffer, size):
    return _sigmoids_lanes if buffer.dtype == types.float32 else _sigmoids_plain


@overload(tanhs)
def _choose_tanhs(buffer, size):
    return _tanhs_lanes if buffer.dtype == types.float32 else _tanhs_plain
