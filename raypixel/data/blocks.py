"""The one place where the bytes of prepared shards are read: whole files, or one row group (a block) at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raypixel.data.manifest import Manifest, damaged


def sizes_of_blocks(path: Path, manifest: Manifest) -> list[int]:
    """Return the number of images in each row group of a shard.

    Raises:
        DataError: It is no parquet file.
    """
    with _opened(path, manifest) as file:
        metadata = file.metadata
        return [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]


def read_block(path: Path, number: int, manifest: Manifest) -> tuple[Tensor, Tensor | None]:
    """Read one row group of a shard; its pages' checksums are verified.

    Returns:
        Levels (N, C, H, W), uint8, and class labels (N,), int64, or None.

    Raises:
        DataError: It is damaged.
    """
    with _opened(path, manifest) as file:
        num_images = file.metadata.row_group(number).num_rows
        images = torch.empty((num_images, *manifest.image_shape), dtype=torch.uint8)
        labels = torch.empty(num_images, dtype=torch.int64) if manifest.num_classes else None
        table = file.read_row_group(number, columns=_columns(manifest), use_threads=False)
        _fill(path, manifest, file, table, images, labels)
    return images, labels


def read_images(path: Path, manifest: Manifest, images: Tensor, labels: Tensor | None) -> None:
    """Read a whole shard into tensors of its size.

    Raises:
        DataError: It is damaged.
    """
    with _opened(path, manifest) as file:
        table = file.read(columns=_columns(manifest))
        _fill(path, manifest, file, table, images, labels)


@contextmanager
def _opened(path: Path, manifest: Manifest) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, memory_map=True, page_checksum_verification=True) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        text = " ".join(str(error).split())
        raise damaged(path, f"must be a parquet file, got {text}", manifest.name) from None


def _columns(manifest: Manifest) -> list[str]:
    return ["image", "label"] if manifest.num_classes else ["image"]


def _fill(
    path: Path, manifest: Manifest, file: Any, table: Any, images: Tensor, labels: Tensor | None
) -> None:
    import pyarrow as pa

    columns = _columns(manifest)
    expected = pa.fixed_shape_tensor(pa.uint8(), manifest.image_shape)
    if table.schema.names != columns or table.schema.field("image").type != expected:
        got = f"got {', '.join(f'{field.name}: {field.type}' for field in file.schema_arrow)}"
        raise damaged(path, f"must hold {columns} with image {expected}, {got}", manifest.name)
    if table.num_rows != len(images):
        problem = f"must hold {len(images):,} images, got {table.num_rows:,}"
        raise damaged(path, problem, manifest.name)
    start = 0
    for chunk in table.column("image").chunks:
        images[start : start + len(chunk)].numpy()[...] = chunk.to_numpy_ndarray()
        start += len(chunk)
    if labels is not None:
        labels.numpy()[...] = table.column("label").to_numpy()
