"""Register-tiled loops over sixteen-lane vectors, for Numba: a product and two transposes.

Each keeps sixteen accumulators in registers, which Numba's own loops do not. "Vector r at offset p"
is the sixteen floats from p + 16 r.
"""
# Numba's compiler hooks take a fixed list of arguments, used or not.
# ruff: noqa: ARG001

# mypy: allow-untyped-defs

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from raypixel.kernels import simd

LANES = simd.LANES
TILE = 16  # accumulators in a register tile


def _accumulate(builder: Any, base: Any, offset: Any, depth: Any, step: Any) -> None:
    """Add `depth` >= 1 steps to the tile at an offset; `step(d, tile)` emits one."""
    places = [builder.add(offset, simd.INT64(LANES * r)) for r in range(TILE)]
    start = [simd.emit_load(builder, base, place) for place in places]
    entry = builder.basic_block
    body = builder.append_basic_block("tile")
    after = builder.append_basic_block("tile_end")
    builder.branch(body)
    builder.position_at_end(body)
    index = builder.phi(simd.INT64)
    tile = [builder.phi(simd.VECTOR) for _ in range(TILE)]
    result = step(index, tile)
    following = builder.add(index, simd.INT64(1))
    index.add_incoming(simd.INT64(0), entry)
    index.add_incoming(following, body)
    for phi, first, later in zip(tile, start, result, strict=True):
        phi.add_incoming(first, entry)
        phi.add_incoming(later, body)
    builder.cbranch(builder.icmp_signed("<", following, depth), body, after)
    builder.position_at_end(after)
    for place, vector in zip(places, result, strict=True):
        simd.emit_store(builder, base, place, vector)


@intrinsic
def add_product(typing, target, target_offset, weights, weight_offset, x, x_offset, depth):
    """Add W x to sixteen vectors: target[r] += sum over d of weights[d, r] * x[d].

    `weights` holds scalars, (depth, 16); `x` holds `depth` vectors.
    """

    def codegen(context, builder, signature, args):
        bases = [args[i] for i in (0, 2, 4)]
        _, place, _, weight_place, _, x_place, count = args

        def step(index: Any, tile: list[Any]) -> list[Any]:
            sixteen = simd.INT64(LANES)
            x_at = builder.add(x_place, builder.mul(index, sixteen))
            vector = simd.emit_load(builder, bases[2], x_at)
            first = builder.add(weight_place, builder.mul(index, sixteen))
            result = []
            for r, accumulator in enumerate(tile):
                pointer = builder.gep(bases[1], [builder.add(first, simd.INT64(r))])
                weight = simd.emit_splat(builder, builder.load(pointer))
                result.append(simd.emit_fma(builder, weight, vector, accumulator))
            return result

        _accumulate(builder, bases[0], place, count, step)
        return context.get_dummy_value()

    index = types.intp
    floats = simd.floats
    return types.void(floats, index, floats, index, floats, index, index), codegen


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Return the transpose of sixteen vectors: four rounds of perfect shuffles."""
    half = LANES // 2
    low = ir.Constant(simd.INTS, [i // 2 + LANES * (i % 2) for i in range(LANES)])
    high = ir.Constant(simd.INTS, [i // 2 + half + LANES * (i % 2) for i in range(LANES)])
    for _ in range(4):
        rows = [
            builder.shuffle_vector(rows[i // 2], rows[i // 2 + half], (low, high)[i % 2])
            for i in range(LANES)
        ]
    return rows


class _Places:
    """Sixteen places in memory, one step apart; those from `count` on are aimed at the last one.

    So a block with fewer rows needs no branches: what is read twice is not used, and writes go in
    descending order, so that the last row is written last.
    """

    def __init__(self, builder: Any, base: Any, offset: Any, step: Any, count: Any) -> None:
        self.base = base
        last = builder.sub(count, simd.INT64(1))
        self.is_inside = [builder.icmp_signed("<", simd.INT64(r), count) for r in range(LANES)]
        self.places = [
            builder.add(offset, builder.mul(builder.select(inside, simd.INT64(r), last), step))
            for r, inside in enumerate(self.is_inside)
        ]


@intrinsic
def gather_lanes(
    typing,
    target,
    target_offset,
    target_step,
    num_vectors,
    source,
    source_offset,
    source_step,
    num_lanes,
):
    """Read lane r of `num_vectors` vectors from source_offset + r * source_step, contiguous there.

    Vector k is written at target_offset + k * target_step, with zeros in lanes >= `num_lanes`.
    """

    def codegen(context, builder, signature, args):
        bases = [args[i] for i in (0, 4)]
        vectors = _Places(builder, bases[0], *args[1:4])
        lanes = _Places(builder, bases[1], *args[5:8])
        columns = builder.trunc(args[3], simd.INT32)
        rows = [
            simd.emit_masked_load(
                builder, lanes.base, place, builder.select(inside, columns, simd.INT32(0))
            )
            for place, inside in zip(lanes.places, lanes.is_inside, strict=True)
        ]
        for place, row in reversed(
            list(zip(vectors.places, _transposed(builder, rows), strict=True))
        ):
            simd.emit_store(builder, vectors.base, place, row)
        return context.get_dummy_value()

    index = types.intp
    arguments = (simd.floats, index, index, index, simd.floats, index, index, index)
    return types.void(*arguments), codegen


@intrinsic
def scatter_lanes(
    typing,
    target,
    target_offset,
    target_step,
    num_lanes,
    source,
    source_offset,
    source_step,
    num_vectors,
):
    """Undo `gather_lanes`: write lane r of the vectors from target_offset + r * target_step on."""

    def codegen(context, builder, signature, args):
        bases = [args[i] for i in (0, 4)]
        lanes = _Places(builder, bases[0], *args[1:4])
        vectors = _Places(builder, bases[1], *args[5:8])
        columns = builder.trunc(args[7], simd.INT32)
        rows = [simd.emit_load(builder, vectors.base, place) for place in vectors.places]
        for place, row in reversed(
            list(zip(lanes.places, _transposed(builder, rows), strict=True))
        ):
            simd.emit_masked_store(builder, lanes.base, place, row, columns)
        return context.get_dummy_value()

    index = types.intp
    arguments = (simd.floats, index, index, index, simd.floats, index, index, index)
    return types.void(*arguments), codegen
