"""The vector functions are accurate, and the register tiles are what their names say."""

import numpy as np
import pytest

pytest.importorskip("numba")

from raypixel.kernels import simd, tiles
from raypixel.kernels.compilation import compile_kernel, run_on_threads


def call(function, *arguments):
    """Call a kernel with integers and the addresses of arrays."""
    table = [a.ctypes.data if isinstance(a, np.ndarray) else a for a in arguments]
    values = np.array(table, dtype=np.int64)
    run_on_threads(compile_kernel(function).address, values, num_threads=1)


def squash(table):
    x, sigmoids = simd.as_floats(table[0]), simd.as_floats(table[1])
    tanhs = simd.as_floats(table[2])
    for place in range(0, table[3], simd.LANES):
        simd.store(sigmoids, place, simd.sigmoid(simd.load(x, place)))
        simd.store(tanhs, place, simd.tanh(simd.load(x, place)))


def squashed(x):
    padded = np.zeros(-(-len(x) // 16) * 16, dtype=np.float32)
    padded[: len(x)] = x
    sigmoids, tanhs = np.empty_like(padded), np.empty_like(padded)
    call(squash, padded, sigmoids, tanhs, len(padded))
    return sigmoids[: len(x)], tanhs[: len(x)]


@pytest.mark.parametrize("bound", [0.01, 4.0, 20.0, 200.0])
def test_sigmoid_and_tanh_are_accurate_to_3e_7(bound):
    x = np.linspace(-bound, bound, 100_001, dtype=np.float32)
    sigmoids, tanhs = squashed(x)
    exact = x.astype(np.float64)
    with np.errstate(over="ignore"):
        assert np.abs(sigmoids - 1 / (1 + np.exp(-exact))).max() < 3e-7
    assert np.abs(tanhs - np.tanh(exact)).max() < 3e-7
    assert np.abs(tanhs).max() <= 1
    assert sigmoids.min() >= 0
    assert sigmoids.max() <= 1


def test_infinities_saturate_and_nan_stays_nan():
    sigmoids, tanhs = squashed(np.array([np.inf, -np.inf, np.nan, 0.0], dtype=np.float32))
    np.testing.assert_allclose(sigmoids, [1, 0, np.nan, 0.5], atol=1e-30)
    np.testing.assert_array_equal(tanhs, [1, -1, np.nan, 0])


def multiply(table):
    target, weights, x = (
        simd.as_floats(table[0]),
        simd.as_floats(table[1]),
        simd.as_floats(table[2]),
    )
    tiles.add_product(target, 0, weights, 0, x, 0, table[3])


@pytest.mark.parametrize("depth", [1, 2, 33])
def test_add_product_adds_a_matrix_product(depth):
    generator = np.random.default_rng(0)
    weights, x, target = (
        generator.standard_normal((n, 16), dtype=np.float32) for n in (depth, depth, 16)
    )
    wanted = target + weights.T @ x
    call(multiply, target, weights, x, depth)
    np.testing.assert_allclose(target, wanted, atol=1e-5)


def gather(table):
    vectors, maps = simd.as_floats(table[0]), simd.as_floats(table[1])
    tiles.gather_lanes(vectors, 0, 32, table[2], maps, 0, 20, table[3])


def scatter(table):
    vectors, maps = simd.as_floats(table[0]), simd.as_floats(table[1])
    tiles.scatter_lanes(maps, 0, 20, table[3], vectors, 0, 32, table[2])


@pytest.mark.parametrize(("num_vectors", "num_lanes"), [(16, 16), (3, 16), (16, 5), (7, 9), (1, 1)])
def test_lanes_are_gathered_and_scattered_within_their_bounds(num_vectors, num_lanes):
    maps = np.random.default_rng(0).standard_normal((16, 20), dtype=np.float32)
    vectors = np.full((16, 32), 7, dtype=np.float32)
    call(gather, vectors, maps, num_vectors, num_lanes)
    wanted = np.full((16, 32), 7, dtype=np.float32)
    wanted[:num_vectors, :16] = 0
    wanted[:num_vectors, :num_lanes] = maps[:num_lanes, :num_vectors].T
    np.testing.assert_array_equal(vectors, wanted)
    back = np.full((16, 20), 9, dtype=np.float32)
    call(scatter, vectors, back, num_vectors, num_lanes)
    wanted = np.full((16, 20), 9, dtype=np.float32)
    wanted[:num_lanes, :num_vectors] = maps[:num_lanes, :num_vectors]
    np.testing.assert_array_equal(back, wanted)
