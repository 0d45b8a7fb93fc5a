"""Sixteen float32 lanes for Numba: a vector type, its arithmetic, and exp, sigmoid, tanh.

Numba's own vectorizer neither keeps a tile of accumulators in registers nor vectorizes exp, which
is all the work there is in a recurrence. So this module gives Numba one new type, `float32x16`,
that is LLVM's <16 x float>: one AVX-512 register, two AVX2 registers, four NEON registers. Kernels
written with it are ordinary Python functions over `load`, `store`, `+ - * /`, `sigmoid`, `tanh`.

Memory is a pointer to float32, `floats`; offsets count floats and are not checked.
"""
# Numba's compiler hooks take a fixed list of arguments, used or not.
# ruff: noqa: ARG001

# mypy: allow-untyped-defs

from __future__ import annotations

import math
import operator
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

LANES = 16

# A minimax fit of e^r on |r| <= ln(2) / 2, lowest power first: relative error 7.5e-8.
_EXP = (1.000000072, 0.999999692, 0.4999889485, 0.1666757473, 0.04191538198, 0.008297654793)

_FLOAT = ir.FloatType()
INT32 = ir.IntType(32)
INT64 = ir.IntType(64)
VECTOR = ir.VectorType(_FLOAT, LANES)
INTS = ir.VectorType(INT32, LANES)
_BYTES = ir.IntType(8).as_pointer()
_MASK = ir.VectorType(ir.IntType(1), LANES)


class Float32x16(types.Type):
    """Numba's type of a vector of sixteen float32."""

    def __init__(self) -> None:
        super().__init__(name="float32x16")


float32x16 = Float32x16()
floats = types.CPointer(types.float32)


@register_model(Float32x16)
class _Float32x16Model(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, VECTOR)


def emit_load(builder: Any, base: Any, offset: Any) -> Any:
    """Return the vector at an offset from a pointer."""
    pointer = builder.bitcast(builder.gep(base, [offset]), VECTOR.as_pointer())
    return builder.load(pointer, align=4)


def emit_store(builder: Any, base: Any, offset: Any, value: Any) -> None:
    """Write a vector at an offset from a pointer."""
    pointer = builder.bitcast(builder.gep(base, [offset]), VECTOR.as_pointer())
    builder.store(value, pointer, align=4)


def emit_splat(builder: Any, scalar: Any) -> Any:
    """Return a scalar in all lanes."""
    single = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), scalar, INT32(0))
    return builder.shuffle_vector(
        single, ir.Constant(VECTOR, ir.Undefined), ir.Constant(INTS, [0] * LANES)
    )


def emit_fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c."""
    signature = ir.FunctionType(VECTOR, [VECTOR] * 3)
    function = cgutils.get_or_insert_function(builder.module, signature, "llvm.fma.v16f32")
    return builder.call(function, [a, b, c])


def _column_mask(builder: Any, columns: Any) -> Any:
    lanes = ir.Constant(INTS, list(range(LANES)))
    scalar = builder.insert_element(ir.Constant(INTS, ir.Undefined), columns, INT32(0))
    limit = builder.shuffle_vector(
        scalar, ir.Constant(INTS, ir.Undefined), ir.Constant(INTS, [0] * LANES)
    )
    return builder.icmp_signed("<", lanes, limit)


def emit_masked_load(builder: Any, base: Any, offset: Any, columns: Any) -> Any:
    """Return the first `columns` (int32) floats at an offset, then zeros; reads no further."""
    pointer = builder.gep(base, [offset])
    pointer = builder.bitcast(pointer, VECTOR.as_pointer())
    signature = ir.FunctionType(VECTOR, [VECTOR.as_pointer(), INT32, _MASK, VECTOR])
    function = cgutils.get_or_insert_function(
        builder.module, signature, "llvm.masked.load.v16f32.p0"
    )
    zero = ir.Constant(VECTOR, [0.0] * LANES)
    return builder.call(function, [pointer, INT32(4), _column_mask(builder, columns), zero])


def emit_masked_store(builder: Any, base: Any, offset: Any, value: Any, columns: Any) -> None:
    """Write the first `columns` (int32) lanes at an offset and nothing after them."""
    pointer = builder.bitcast(builder.gep(base, [offset]), VECTOR.as_pointer())
    arguments = [VECTOR, VECTOR.as_pointer(), INT32, _MASK]
    signature = ir.FunctionType(ir.VoidType(), arguments)
    function = cgutils.get_or_insert_function(
        builder.module, signature, "llvm.masked.store.v16f32.p0"
    )
    builder.call(function, [value, pointer, INT32(4), _column_mask(builder, columns)])


@intrinsic
def as_floats(typing, address):
    """Return an integer address as a pointer to float32."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], _FLOAT.as_pointer())

    return floats(types.int64), codegen


@intrinsic
def shifted(typing, base, offset):
    """Return a pointer moved on by a number of floats."""

    def codegen(context, builder, signature, args):
        return builder.gep(args[0], [args[1]])

    return floats(floats, types.intp), codegen


@intrinsic
def prefetch(typing, base, offset):
    """Ask for the cache line at an offset, which need not be readable."""

    def codegen(context, builder, signature, args):
        pointer = builder.bitcast(builder.gep(args[0], [args[1]]), _BYTES)
        prototype = ir.FunctionType(ir.VoidType(), [_BYTES, INT32, INT32, INT32])
        function = cgutils.get_or_insert_function(builder.module, prototype, "llvm.prefetch.p0")
        builder.call(function, [pointer, INT32(0), INT32(2), INT32(1)])
        return context.get_dummy_value()

    return types.void(floats, types.intp), codegen


@intrinsic
def take_next(typing, counters, index):
    """Return an integer in memory and increase it, atomically among threads."""

    def codegen(context, builder, signature, args):
        counter = builder.gep(args[0], [args[1]])
        return builder.atomic_rmw("add", counter, INT64(1), "monotonic")

    return types.int64(types.CPointer(types.int64), types.intp), codegen


@intrinsic
def load(typing, base, offset):
    """Return the sixteen floats at an offset."""

    def codegen(context, builder, signature, args):
        return emit_load(builder, args[0], args[1])

    return float32x16(floats, types.intp), codegen


@intrinsic
def store(typing, base, offset, value):
    """Write sixteen floats at an offset."""

    def codegen(context, builder, signature, args):
        emit_store(builder, *args)
        return context.get_dummy_value()

    return types.void(floats, types.intp, float32x16), codegen


@intrinsic
def stream(typing, base, offset, value):
    """Write sixteen floats past the caches; the address must be a multiple of 64."""

    def codegen(context, builder, signature, args):
        pointer = builder.bitcast(builder.gep(args[0], [args[1]]), VECTOR.as_pointer())
        instruction = builder.store(args[2], pointer, align=64)
        instruction.set_metadata("nontemporal", builder.module.add_metadata([INT32(1)]))
        return context.get_dummy_value()

    return types.void(floats, types.intp, float32x16), codegen


@intrinsic
def broadcast(typing, scalar):
    """Return a scalar in all lanes."""

    def codegen(context, builder, signature, args):
        return emit_splat(builder, args[0])

    return float32x16(types.float32), codegen


@intrinsic
def spread(typing, base, offset):
    """Return the float at an offset from a pointer in all lanes."""

    def codegen(context, builder, signature, args):
        return emit_splat(builder, builder.load(builder.gep(args[0], [args[1]]), align=4))

    return float32x16(floats, types.intp), codegen


@intrinsic
def fma(typing, a, b, c):
    """Return a * b + c, rounded once."""

    def codegen(context, builder, signature, args):
        return emit_fma(builder, *args)

    return float32x16(float32x16, float32x16, float32x16), codegen


@intrinsic
def total(typing, value):
    """Return the sum of all lanes: halves are added until one lane is left, in this order on every processor."""

    def codegen(context, builder, signature, args):
        value, undefined = args[0], ir.Constant(VECTOR, ir.Undefined)
        for half in (8, 4, 2, 1):
            lanes = [lane + half if lane < half else lane for lane in range(LANES)]
            other = builder.shuffle_vector(value, undefined, ir.Constant(INTS, lanes))
            value = builder.fadd(value, other)
        return builder.extract_element(value, INT32(0))

    return types.float32(float32x16), codegen


@intrinsic
def clamp(typing, a, low, high):
    """Return a within [low, high]; nan stays nan."""

    def codegen(context, builder, signature, args):
        value, low, high = args
        value = builder.select(builder.fcmp_ordered("<", value, low), low, value)
        return builder.select(builder.fcmp_ordered(">", value, high), high, value)

    return float32x16(float32x16, float32x16, float32x16), codegen


@intrinsic
def _scale_by_power(typing, value, shifted):
    """Return value * 2^n, where the integer n lies in the low bits of `shifted`."""

    def codegen(context, builder, signature, args):
        power = builder.shl(builder.bitcast(args[1], INTS), ir.Constant(INTS, [23] * LANES))
        return builder.bitcast(builder.add(builder.bitcast(args[0], INTS), power), VECTOR)

    return float32x16(float32x16, float32x16), codegen


def _register_operator(function: Any, instruction: str) -> None:
    @intrinsic
    def lanewise(typing, a, b):
        def codegen(context, builder, signature, args):
            return getattr(builder, instruction)(args[0], args[1], flags=("contract",))

        return float32x16(float32x16, float32x16), codegen

    @overload(function, inline="always")
    def implement(a, b):
        if a is float32x16 and b is float32x16:
            return lambda a, b: lanewise(a, b)
        return None


for _function, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _register_operator(_function, _instruction)


@njit
def number(value):
    """Return a constant in all lanes."""
    return broadcast(types.float32(value))


@njit
def exp(x):
    """Return e^x for x in [-87, 87], nearest values outside; relative error below 3e-7.

    e^x = 2^n e^r with n = round(x / ln 2) and |r| <= ln(2) / 2. Adding 1.5 * 2^23 rounds to an
    integer and leaves it in the low bits; the polynomial is a minimax fit of the relative error.
    """
    x = clamp(x, number(-87.0), number(87.0))
    magic = number(12582912.0)
    shifted = fma(x, number(1.0 / math.log(2.0)), magic)
    power = shifted - magic
    r = fma(power, number(-0.693359375), x)
    r = fma(power, number(2.12194440e-4), r)
    value = number(_EXP[5])
    value = fma(value, r, number(_EXP[4]))
    value = fma(value, r, number(_EXP[3]))
    value = fma(value, r, number(_EXP[2]))
    value = fma(value, r, number(_EXP[1]))
    value = fma(value, r, number(_EXP[0]))
    return _scale_by_power(value, shifted)


@njit
def sigmoid(x):
    """Return 1 / (1 + e^-x), to 3e-7."""
    one = number(1.0)
    return one / (one + exp(number(0.0) - x))


@njit
def tanh(x):
    """Return tanh(x) = 1 - 2 / (1 + e^2x), to 3e-7 absolute (not relative, near zero)."""
    one = number(1.0)
    two = number(2.0)
    return one - two / (one + exp(x + x))
