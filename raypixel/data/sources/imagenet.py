"""Downsampled ImageNet (Chrabaszcz et al. 2017): npz batches of 32x32 and 64x64 images, read in pieces.

`train_data_batch_1.npz` and so on and `val_data.npz` hold `data` (N, 3*S*S), uint8, and `labels`, 1 to 1000. A batch of 64x64
images has 1.5 GB: rows are taken from the archive as they are needed, and nothing is unpickled. The published likelihoods are
of the images of `val_data`, which is our test split; val are the last train images, a tenth of them or 10,000.
"""

import re
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

from raypixel.data.sources.raw import RawBatch, RawSet, RawSplit
from raypixel.errors import DataError

NUM_CLASSES = 1000
_NUM_VAL = 10_000
_BATCH_BYTES = 8 << 20
_MOST_IMAGES = 1 << 21
"""Of a file; all of ImageNet has 1.3 million. What a header claims is believed no further."""
_BAD_BYTES = (
    OSError, KeyError, ValueError, TypeError, EOFError, RuntimeError, OverflowError,
    tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What zipfile and NumPy raise at files that are none of theirs."""
_TRAIN = re.compile(r"train_data_batch_(\d+)(\.npz)?")


@dataclass(frozen=True)
class _Archive:
    """One npz file: its path and its number of images."""

    path: Path
    num_images: int


def find_imagenet(source: Path) -> list[Path]:
    """Return the train batches in order and, last, the file of val_data.

    Raises:
        DataError: One is missing.
    """
    if not source.is_dir():
        got = "a file" if source.exists() else "nothing there"
        raise DataError(f"{source}: must be a folder that holds train_data_batch_1.npz, got {got}")
    numbered = {}
    for path in sorted(source.iterdir()):
        match = _TRAIN.fullmatch(path.name)
        if match:
            numbered[int(match[1])] = path
    val = [source / name for name in ("val_data.npz", "val_data") if (source / name).is_file()]
    missing = [n for n in range(1, max(numbered, default=1) + 1) if n not in numbered]
    if missing or not val:
        name = f"train_data_batch_{missing[0]}.npz" if missing else "val_data.npz"
        raise DataError(f"{source}: must hold {name}, got none")
    return [*(numbered[number] for number in sorted(numbered)), val[0]]


def read_imagenet(source: Path, files: list[Path], *, size: int) -> RawSet:
    """Plan the reading of the batches.

    Args:
        source: Their folder.
        files: As `find_imagenet` gives them.
        size: Height and width of the images.

    Raises:
        DataError: A file is not such a batch, or there are too few images.
    """
    archives = [_Archive(path, _count(path, size)) for path in files]
    train, test = archives[:-1], archives[-1:]
    total = sum(archive.num_images for archive in train)
    num_val = min(_NUM_VAL, total // 10)
    if num_val == 0:
        raise DataError(f"{source}: must hold at least 10 train images, got {total}")

    def split(archives: list[_Archive], start: int, stop: int) -> RawSplit:
        return RawSplit(stop - start, partial(_batches, archives, start, stop, size))

    return RawSet(
        image_shape=(3, size, size),
        num_levels=256,
        class_names=tuple(str(number + 1) for number in range(NUM_CLASSES)),
        splits={
            "train": split(train, 0, total - num_val),
            "val": split(train, total - num_val, total),
            "test": split(test, 0, test[0].num_images),
        },
    )


def _batches(archives: list[_Archive], start: int, stop: int, size: int) -> Iterator[RawBatch]:
    """Yield the images of some archives laid end to end, from `start` to `stop`."""
    for archive in archives:
        first, last = max(start, 0), min(stop, archive.num_images)
        if first < last:
            yield from _rows(archive.path, first, last, size)
        start, stop = start - archive.num_images, stop - archive.num_images


def _rows(path: Path, first: int, last: int, size: int) -> Iterator[RawBatch]:
    num_dims = 3 * size * size
    labels = _labels(path)[first:last]
    count = max(1, _BATCH_BYTES // num_dims)
    with _member(path, "data.npy") as file:
        _header(file)
        _skip(file, first * num_dims)
        for start in range(first, last, count):
            length = min(count, last - start)
            content = file.read(length * num_dims)
            if len(content) != length * num_dims:
                raise EOFError("the end of the file too early")
            images = np.frombuffer(content, np.uint8).reshape(length, 3, size, size)
            yield images, labels[start - first : start - first + length]


def _count(path: Path, size: int) -> int:
    with _member(path, "data.npy") as file:
        shape, is_fortran, dtype = _header(file)
    num_dims = 3 * size * size
    if len(shape) != 2 or shape[1] != num_dims or dtype != np.uint8 or is_fortran:
        got = f"got {shape} {dtype}"
        raise DataError(
            f"{path}: data must be (N, {num_dims}) uint8 for {size}x{size} images, {got}"
        )
    if shape[0] > _MOST_IMAGES:
        raise DataError(f"{path}: data must have at most {_MOST_IMAGES:,} images, got {shape[0]:,}")
    labels = _labels(path)
    if labels.shape != shape[:1]:
        raise DataError(f"{path}: labels must be one for each image, got {labels.shape}")
    if len(labels) and not (labels.min() >= 0 and labels.max() < NUM_CLASSES):
        got = f"{labels.min() + 1} to {labels.max() + 1}"
        raise DataError(f"{path}: labels must be in 1 to {NUM_CLASSES}, got {got}")
    return int(shape[0])


def _labels(path: Path) -> np.ndarray:
    with _member(path, "labels.npy") as file:
        shape, _, dtype = _header(file)
        if len(shape) != 1 or shape[0] > _MOST_IMAGES or dtype.kind not in "iu":
            raise ValueError(f"labels of {shape} {dtype}")
        content = file.read(shape[0] * dtype.itemsize)
        return np.frombuffer(content, dtype, count=shape[0]).astype(np.int64) - 1


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"an array of version {version}")
    return read(file)


def _skip(file: IO[bytes], num_bytes: int) -> None:
    while num_bytes:
        num_bytes -= len(file.read(min(num_bytes, _BATCH_BYTES))) or num_bytes


@contextmanager
def _member(path: Path, name: str) -> Iterator[IO[bytes]]:
    """Open an array of an npz file, and tell in one line what is wrong with it."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(name) as file:
            yield file
    except _BAD_BYTES as error:
        got = " ".join(str(error).split())
        raise DataError(f"{path}: must be an npz file of `data` and `labels`, got {got}") from None
