"""Parquet shards of fixed-shape uint8 tensors, as they are written.

Columns: `image` (Arrow's own fixed_shape_tensor, uint8, (C, H, W)), `label` (int64, absent without classes) and `index` (int64,
the position in the split).
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from raypixel.data.manifest import ShardInfo, SplitInfo
from raypixel.data.sources.raw import RawBatch, RawSplit, file_sha256
from raypixel.errors import DataError

_IMAGES_PER_SHARD = 6_250  # 50,000 train images make 8 shards
_MAX_SHARDS = 8
_MAX_SHARD_BYTES = 512 << 20  # a very large set gets more, rather than larger, files
_ROW_GROUP_BYTES = 4 << 20


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


def sync(path: Path) -> None:
    """Have the operating system put a file or folder on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_shard(
    path: Path,
    groups: Iterator[RawBatch],
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


def _shard_sizes(num_images: int, *, num_dims: int) -> list[int]:
    """Cut a split into shards whose sizes differ by at most one image."""
    count = min(_MAX_SHARDS, -(-num_images // _IMAGES_PER_SHARD))
    count = max(1, count, -(-num_images * num_dims // _MAX_SHARD_BYTES))
    return [num_images // count + (number < num_images % count) for number in range(count)]


def _regroup(batches: Iterator[RawBatch], sizes: list[int], rows: int) -> Iterator[RawBatch]:
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


def _append(images: np.ndarray, labels: np.ndarray | None, more: RawBatch) -> RawBatch:
    if not len(images):
        return more
    images = np.concatenate([images, more[0]])
    return images, None if labels is None or more[1] is None else np.concatenate([labels, more[1]])
