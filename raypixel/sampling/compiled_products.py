"""The matrix product of compiled plans: the inputs of some places times blocks of weights, in tiles that fit the registers."""
# mypy: allow-untyped-defs, allow-untyped-calls
# Numba's overloads list the arguments for their types.
# ruff: noqa: ARG001

from numba import types
from numba.extending import overload

from raypixel.kernels.simd import as_floats, fma, load, spread, store


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


@overload(multiply)
def _choose_multiply(outputs, inputs, num_places, size, weights, at, num_blocks):
    return _multiply_lanes if outputs.dtype == types.float32 else _multiply_plain
