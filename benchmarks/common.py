"""What the benchmarks share: real data, the machine's matrix-multiply rate, medians."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from raypixel.data import Manifest, prepare

SOURCES = {"mnist": "mnist", "binarized_mnist": "binarized_mnist", "cifar10": "cifar10"}


def prepared(name: str, root: Path) -> Manifest:
    """Prepare a data set under a root, from RAYPIXEL_TEST_DATA where it is not embedded."""
    folder = Path(
        os.environ.get("RAYPIXEL_TEST_DATA", Path(__file__).parents[2] / "shared" / "data")
    )
    source = folder / SOURCES[name] if name in SOURCES else None
    if source is not None and not source.exists():
        raise SystemExit(f"no {name} at {source}: set RAYPIXEL_TEST_DATA")
    return prepare(name, root=root, source=source)


def data_root() -> Path:
    """Return a folder for prepared data that later runs find again."""
    return Path(tempfile.gettempdir()) / "raypixel-benchmarks"


def matmul_rate(
    dtype: torch.dtype, *, size: int = 2048, rounds: int = 7, device: str = "cpu"
) -> float:
    """Return the machine's matrix-multiply rate, FLOP/s: the best of some rounds."""
    a = torch.randn(size, size, dtype=dtype, device=device)
    b = torch.randn(size, size, dtype=dtype, device=device)

    def multiply() -> None:
        _ = a @ b
        if a.is_cuda:
            torch.cuda.synchronize()

    seconds = min(timed(multiply) for _ in range(rounds))
    return 2 * size**3 / seconds


def timed(function: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def median(values: list[float]) -> float:
    """Return the median."""
    return statistics.median(values)
