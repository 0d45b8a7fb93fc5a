"""A kernel runs on every thread, whichever kind of thread there is."""

import numpy as np
import pytest

pytest.importorskip("numba")

from raypixel.kernels import compilation
from raypixel.kernels.compilation import compile_kernel
from raypixel.kernels.simd import take_next


def count(table):
    """Take numbers until they run out, and write each down once."""
    number = take_next(table, 0)
    while number < table[1]:
        table[2 + number] += number
        number = take_next(table, 0)


@pytest.mark.parametrize("has_openmp", [True, False])
@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_every_task_is_done_exactly_once(monkeypatch, has_openmp, num_threads):
    if not has_openmp:
        monkeypatch.setattr(compilation, "_openmp_team", lambda: None)
    table = np.zeros(102, dtype=np.int64)
    table[1] = 100
    compilation.run_on_threads(compile_kernel(count).address, table, num_threads=num_threads)
    np.testing.assert_array_equal(table[2:], np.arange(100))
