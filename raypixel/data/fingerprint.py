"""Checksums over the files of a source: of their contents, and a quick one of their sizes and times."""

import hashlib
from pathlib import Path

from raypixel.data.manifest import Origin
from raypixel.data.shards import file_sha256


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
