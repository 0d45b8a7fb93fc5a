"""Parquet shards of fixed-shape uint8 tensors: written once, checked and read into memory.

Columns: `image` (Arrow's own fixed_shape_tensor, uint8, (C, H, W)), `label` (int64, absent without classes) and `index` (int64,
the position in the split).
"""

import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raypixel import storage
from raypixel.data.blocks import read_images
from raypixel.data.copies import fetch_shards, local_root
from raypixel.data.manifest import (
    Manifest,
    ShardInfo,
    SplitInfo,
    check_sizes,
    damaged,
    load_manifest,
)
from raypixel.data.sources.raw import Batch, RawSplit
from raypixel.errors import DataError
from raypixel.storage import Location, Remote

_IMAGES_PER_SHARD = 6_250  # 50,000 train images make 8 shards
_MAX_SHARDS = 8
_MAX_SHARD_BYTES = 512 << 20  # a very large set gets more, rather than larger, files
_ROW_GROUP_BYTES = 4 << 20


@dataclass(frozen=True)
class Split:
    """Hold one split in memory.

    Attributes:
        images: Levels, (N, C, H, W), uint8.
        class_labels: (N,), int64; None when the data set has no classes.
    """

    images: Tensor
    class_labels: Tensor | None

    def __len__(self) -> int:
        return self.images.shape[0]


def shard_paths(root: Location, name: str, split_name: str) -> list[Path]:
    """Return the paths of a split's shards, in order, after checking their sizes and checksums.

    Raises:
        DataError: The set is not prepared, or a shard is missing, truncated or altered.
    """
    return _checked_paths(root, load_manifest(root, name), split_name)


def sized_paths(root: Location, manifest: Manifest, split_name: str) -> list[Path]:
    """Return the paths of a split's shards, fetched where they are in storage, after checking their sizes only.

    Raises:
        DataError: A shard is missing or truncated.
        StorageError: Storage does not answer or refuses.
    """
    folder = local_root(root)
    if isinstance(root, Remote) and split_name in manifest.splits:
        fetch_shards(root, manifest.name, manifest.splits[split_name].files)
    with storage.named(folder, root):
        return check_sizes(folder, manifest, split_name)


def read_split(root: Location, name: str, split_name: str) -> Split:
    """Read one split of a prepared data set into memory.

    Raises:
        DataError: The set is not prepared, or a shard is missing, truncated or altered.
    """
    manifest = load_manifest(root, name)
    paths = _checked_paths(root, manifest, split_name)
    num_images = manifest.splits[split_name].num_images
    images = torch.empty((num_images, *manifest.image_shape), dtype=torch.uint8)
    labels = torch.empty(num_images, dtype=torch.int64) if manifest.num_classes else None
    start = 0
    for path, shard in zip(paths, manifest.splits[split_name].files, strict=True):
        stop = start + shard.num_images
        read_images(
            path, manifest, images[start:stop], None if labels is None else labels[start:stop]
        )
        start = stop
    return Split(images=images, class_labels=labels)


def write_split(
    folder: Path,
    split_name: str,
    *,
    split: RawSplit,
    image_shape: tuple[int, int, int],
    has_labels: bool,
    advance: Callable[[int], None],
) -> SplitInfo:
    """Write the shards of one split.

    Args:
        folder: Where the files go.
        split_name: First part of their names.
        split: The images.
        image_shape: (C, H, W).
        has_labels: Whether the files get a `label` column.
        advance: Called with the number of images after each row group.

    Raises:
        DataError: The source gives more or fewer images than it said.
        OSError: A file cannot be written.
    """
    sizes = _shard_sizes(split.num_images, num_dims=int(np.prod(image_shape)))
    rows = max(64, _ROW_GROUP_BYTES // int(np.prod(image_shape)))
    groups = _regroup(split.batches(), sizes, rows)
    shards, start = [], 0
    for number, num_images in enumerate(sizes):
        path = folder / f"{split_name}-{number:05d}-of-{len(sizes):05d}.parquet"
        _write_shard(
            path, groups, start=start, num_images=num_images, has_labels=has_labels, advance=advance
        )
        shards.append(
            ShardInfo(
                name=path.name,
                num_images=num_images,
                num_bytes=path.stat().st_size,
                sha256=file_sha256(path),
            )
        )
        start += num_images
    if next(groups, None) is not None:
        raise DataError(f"{split_name} source must give {split.num_images:,} images, got more")
    return SplitInfo(num_images=split.num_images, files=tuple(shards))


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Have the operating system put a file or folder on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_shard(
    path: Path,
    groups: Iterator[Batch],
    *,
    start: int,
    num_images: int,
    has_labels: bool,
    advance: Callable[[int], None],
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer, stop = None, start + num_images
    try:
        while start < stop:
            images, labels = next(groups)
            columns: dict[str, Any] = {"image": _tensor_column(images)}
            if has_labels:
                columns["label"] = pa.array(labels, pa.int64())
            columns["index"] = pa.array(np.arange(start, start + len(images)), pa.int64())
            table = pa.table(columns)
            # Parquet has no single bytes: the dictionary, not zstd alone, brings 32 bits down to 8.
            writer = writer or pq.ParquetWriter(
                path,
                table.schema,
                compression="zstd",
                use_dictionary=["image.list.element"],
                write_page_checksum=True,  # what is streamed is checked page by page
            )
            writer.write_table(table, row_group_size=len(images))
            start += len(images)
            advance(len(images))
    finally:
        if writer is not None:
            writer.close()
    sync(path)


def _tensor_column(images: np.ndarray) -> Any:
    """Return images as an Arrow tensor column.

    Not by `from_numpy_ndarray`, which takes a permutation from the strides, and those of an axis of length 1
    (the channel of a gray image) mean nothing.
    """
    import pyarrow as pa

    num_dims = int(np.prod(images.shape[1:]))
    values = pa.array(np.ascontiguousarray(images).reshape(-1))
    storage = pa.FixedSizeListArray.from_arrays(values, num_dims)
    kind = pa.fixed_shape_tensor(pa.uint8(), images.shape[1:])
    return pa.ExtensionArray.from_storage(kind, storage)


def _checked_paths(root: Location, manifest: Manifest, split_name: str) -> list[Path]:
    folder = local_root(root)
    paths = sized_paths(root, manifest, split_name)
    with storage.named(folder, root):
        try:
            _check_sums(paths, manifest, split_name)
        except DataError:
            if not isinstance(root, Remote):
                raise
            for path in paths:  # the working copy may have been damaged, or the set prepared anew
                path.unlink()
            _check_sums(sized_paths(root, manifest, split_name), manifest, split_name)
    return paths


def _check_sums(paths: list[Path], manifest: Manifest, split_name: str) -> None:
    for path, shard in zip(paths, manifest.splits[split_name].files, strict=True):
        status = path.stat()
        sha256 = _sha256_at(path.absolute(), status.st_size, status.st_mtime_ns)
        if sha256 != shard.sha256:
            problem = f"must have SHA-256 {shard.sha256[:12]}..., got {sha256[:12]}..."
            raise damaged(path, problem, manifest.name)


@functools.lru_cache(maxsize=4096)
def _sha256_at(path: Path, num_bytes: int, mtime_ns: int) -> str:  # noqa: ARG001 (keys of the cache)
    return file_sha256(path)


def _shard_sizes(num_images: int, *, num_dims: int) -> list[int]:
    """Cut a split into shards whose sizes differ by at most one image."""
    count = min(_MAX_SHARDS, -(-num_images // _IMAGES_PER_SHARD))
    count = max(1, count, -(-num_images * num_dims // _MAX_SHARD_BYTES))
    return [num_images // count + (number < num_images % count) for number in range(count)]


def _regroup(batches: Iterator[Batch], sizes: list[int], rows: int) -> Iterator[Batch]:
    """Cut batches of any length into row groups that end where the shards end.

    Row groups after the last shard are given as they come, so that the writer can see a surplus.
    """
    lengths = [min(rows, size - start) for size in sizes for start in range(0, size, rows)]
    images = np.empty((0,))
    labels: np.ndarray | None = None
    for length in lengths:
        while len(images) < length:
            more = next(batches, None)
            if more is None:
                raise DataError(f"source must give {sum(sizes):,} images, got fewer")
            images, labels = _append(images, labels, more)
        yield images[:length], None if labels is None else labels[:length]
        images, labels = images[length:], None if labels is None else labels[length:]
    if len(images):
        yield images, labels
    yield from batches


def _append(images: np.ndarray, labels: np.ndarray | None, more: Batch) -> Batch:
    if not len(images):
        return more
    images = np.concatenate([images, more[0]])
    return images, None if labels is None or more[1] is None else np.concatenate([labels, more[1]])
