"""What a source gives: images in batches, by split, not yet written anywhere; and its files: read, found, fingerprinted."""

import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raypixel.data.manifest import Origin
from raypixel.errors import DataError

RawBatch = tuple[np.ndarray, np.ndarray | None]
"""Levels (N, C, H, W), uint8, and class labels (N,), int64, or None."""

_BATCH_IMAGES = 4096
_MOST_UNPACKED = 256 << 20
"""The largest of the published files, text, has 79 MB."""


@dataclass(frozen=True)
class RawSplit:
    """Hold the images of one split, or the way to read them.

    Attributes:
        num_images: Images that the batches add up to.
        batches: Starts one pass over them.
    """

    num_images: int
    batches: Callable[[], Iterator[RawBatch]]


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

    def batches() -> Iterator[RawBatch]:
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
        with gzip.open(io.BytesIO(packed)) as file:
            content = file.read(_MOST_UNPACKED + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: must be a whole gzip file, got {error}") from None
    if len(content) > _MOST_UNPACKED:
        raise DataError(f"{path}: must have at most {_MOST_UNPACKED:,} bytes unpacked, got more")
    return content


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


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe(origin: Origin, source: Path, files: list[Path]) -> Origin:
    """Return an origin with the facts of the files that were read.

    Args:
        origin: The source's path, empty when there was none, and the options.
        source: Where the files lie; the download folder when there was no path.
        files: Those that were read.
    """
    if not files:
        return origin.model_copy(update={"source": "scikit-learn"})
    facts = {
        "num_files": len(files),
        "num_bytes": sum(path.stat().st_size for path in files),
        "sha256": content_sha256(source, files),
    }
    if origin.source:
        return origin.model_copy(update=facts | {"stat_sha256": stat_sha256(source, files)})
    return origin.model_copy(update=facts | {"source": "torchvision"})


def content_sha256(source: Path, files: list[Path]) -> str:
    """Return one checksum over the files' names below the source and their contents."""
    lines = [f"{_relative(path, source)} {file_sha256(path)}\n" for path in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def stat_sha256(source: Path, files: list[Path]) -> str:
    """Return one checksum over the files' names, sizes and times of change."""
    lines = []
    for path in files:
        status = path.stat()
        lines.append(f"{_relative(path, source)} {status.st_size} {status.st_mtime_ns}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _relative(path: Path, source: Path) -> str:
    is_below = path != source and path.is_relative_to(source)
    return str(path.relative_to(source)) if is_below else path.name
