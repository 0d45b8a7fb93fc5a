"""What a source gives: images in batches, by split, not yet written anywhere."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raypixel.errors import DataError

Batch = tuple[np.ndarray, np.ndarray | None]
"""Levels (N, C, H, W), uint8, and class labels (N,), int64, or None."""

_BATCH_IMAGES = 4096


@dataclass(frozen=True)
class RawSplit:
    """Hold the images of one split, or the way to read them.

    Attributes:
        num_images: Images that the batches add up to.
        batches: Starts one pass over them.
    """

    num_images: int
    batches: Callable[[], Iterator[Batch]]


@dataclass(frozen=True)
class RawSet:
    """Hold everything that is needed to write a data set.

    Attributes:
        image_shape: (C, H, W).
        num_levels: Every level is in [0, num_levels - 1].
        class_names: Empty when there are no labels.
        splits: `train`, `val` and `test`.
    """

    image_shape: tuple[int, int, int]
    num_levels: int
    class_names: tuple[str, ...]
    splits: dict[str, RawSplit]


def array_split(images: np.ndarray, labels: np.ndarray | None) -> RawSplit:
    """Serve arrays that are already in memory, (N, C, H, W) and (N,)."""

    def batches() -> Iterator[Batch]:
        for start in range(0, len(images), _BATCH_IMAGES):
            part = slice(start, start + _BATCH_IMAGES)
            yield np.ascontiguousarray(images[part]), None if labels is None else labels[part]

    return RawSplit(num_images=len(images), batches=batches)


def read_bytes(path: Path) -> bytes:
    """Read a source file.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: must be a readable file, got {error.strerror}") from None


def read_maybe_gzipped(path: Path) -> bytes:
    """Read a source file, unpacked when its name ends in `.gz`.

    Raises:
        DataError: The file cannot be read, is truncated, or is not gzip.
    """
    import gzip
    import zlib

    packed = read_bytes(path)
    if path.suffix != ".gz":
        return packed
    try:
        return gzip.decompress(packed)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: must be a whole gzip file, got {error}") from None


def find_one(source: Path, folders: tuple[str, ...], stem: str) -> Path:
    """Return the file `stem` or `stem.gz` in the first of some sub-folders that has it.

    Raises:
        DataError: No folder has it.
    """
    if not source.is_dir():
        got = "a file" if source.exists() else "nothing there"
        raise DataError(f"{source}: must be a folder that holds {stem}.gz, got {got}")
    for folder in folders:
        for name in (f"{stem}.gz", stem):
            if (source / folder / name).is_file():
                return source / folder / name
    raise DataError(f"{source}: must hold {stem}.gz or {stem}, got neither")
