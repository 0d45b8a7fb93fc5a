"""Compiled kernels: kept on disk, and run on several threads, PyTorch's own OpenMP team where that can be reached.

After every parallel operator PyTorch's OpenMP threads spin for some milliseconds, waiting for the
next one. Other threads would compete with them for the cores: measured between two convolutions, a
10 ms task on two cores took 15 ms on Python threads and 10 ms on PyTorch's team. GNU OpenMP's entry
point is found through PyTorch's library; elsewhere (macOS, Windows) Python threads serve.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numba import cfunc, types
from numpy.typing import NDArray


def drop_stale_code(folder: Path) -> None:
    """Forget a folder's functions compiled before an edit of any file there or here; Numba looks at their own only."""
    sources = [*folder.glob("*.py"), *Path(__file__).parent.glob("*.py")]
    newest = max(source.stat().st_mtime for source in sources)
    for index in folder.glob("__pycache__/*.nbi"):
        with suppress(FileNotFoundError):  # another process was faster
            if index.stat().st_mtime < newest:
                index.unlink()


@cache
def compile_kernel(function: Any) -> Any:
    """Return a C function of one pointer to int64, compiled or read from disk."""
    drop_stale_code(Path(__file__).parent)
    signature = types.void(types.CPointer(types.int64))
    try:
        return cfunc(signature, cache=True)(function)
    except RuntimeError:  # neither this directory nor the user's cache directory can be written
        return cfunc(signature)(function)


def run_on_threads(kernel: int, table: NDArray[np.int64], *, num_threads: int) -> None:
    """Call a kernel with a table once on each of several threads, and wait for all.

    Args:
        kernel: Address of a C function of one pointer. It must not call Python.
        table: What the pointer points to; contiguous.
        num_threads: At least 1.
    """
    address = table.ctypes.data
    if num_threads == 1:
        _as_function(kernel)(address)
    elif (team := _openmp_team()) is not None:
        team(kernel, address, num_threads, 0)
    else:
        with ThreadPoolExecutor(num_threads - 1) as pool:
            others = [pool.submit(_as_function(kernel), address) for _ in range(num_threads - 1)]
            _as_function(kernel)(address)
            for other in others:
                other.result()


def _as_function(kernel: int) -> Callable[[int], None]:
    function: Callable[[int], None] = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(kernel)
    return function


@cache
def _openmp_team() -> Any:
    """Return GNU OpenMP's `GOMP_parallel(function, data, num_threads, flags)`, or None."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        team = ctypes.CDLL(str(library)).GOMP_parallel
    except (OSError, AttributeError):
        return None
    team.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    team.restype = None
    return team
