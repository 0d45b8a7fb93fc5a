"""Images of prepared shards in memory: a whole split, checked against its manifest, or one row group (a block) at a time.

The one place where the bytes of prepared shards are read.
"""

import functools
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raypixel import storage
from raypixel.data.manifest import (
    PURPOSE,
    Manifest,
    check_sizes,
    check_split,
    damaged,
    load_manifest,
)
from raypixel.data.sources.raw import file_sha256
from raypixel.errors import DataError
from raypixel.storage import Location


@dataclass(frozen=True)
class Split:
    """Hold images in memory: a whole split, or a window of one.

    Attributes:
        images: Levels, (N, C, H, W), uint8.
        class_labels: (N,), int64; None when the data set has no classes.
        order: Positions of the images in the order in which they are used, (N,), int64; None as they lie.
    """

    images: Tensor
    class_labels: Tensor | None
    order: Tensor | None = None

    def __len__(self) -> int:
        return self.images.shape[0]

    def take(self, start: int, stop: int, step: int = 1) -> "Split":
        """Return a copy of every `step`-th image from `start` to `stop` in the order of use."""
        if self.order is not None:
            chosen = self.order[start:stop:step]
            images, labels = self.images[chosen], self.class_labels
            return Split(images, None if labels is None else labels[chosen])
        # a copy of its own: a view would keep the whole window in memory
        part = slice(start, stop, step)
        labels = None if self.class_labels is None else self.class_labels[part].clone()
        return Split(self.images[part].clone(), labels)

    def joined(self, other: "Split") -> "Split":
        """Return the images of both, as they lie."""
        labels = None
        if self.class_labels is not None and other.class_labels is not None:
            labels = torch.cat([self.class_labels, other.class_labels])
        return Split(torch.cat([self.images, other.images]), labels)

    def once(self) -> Generator["Split", None, None]:
        """Yield all images in the order of the split: one window."""
        yield self

    def epochs(self, seed: int) -> "PermutedEpochs":
        """Return the windows of every epoch of training: one, in an order drawn from the seed and the epoch."""
        return PermutedEpochs(self, seed)


@dataclass(frozen=True)
class PermutedEpochs:
    """Epochs of a split that is held in memory."""

    split: Split
    seed: int

    def windows(self, epoch: int, skip: int) -> tuple[Iterator[Split], int]:
        """Return the one window of an epoch, and how many of its images are to be skipped: as many as are asked for."""
        order = torch.from_numpy(permutation(len(self.split), self.seed, epoch))
        return iter([replace(self.split, order=order)]), skip

    def close(self) -> None:
        """Let go of nothing: the split is the caller's."""


def permutation(count: int, *entropy: int) -> np.ndarray:
    """Return an order of `count` images, drawn from some numbers."""
    return np.random.default_rng(np.random.SeedSequence(entropy)).permutation(count)


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
    folder = storage.local_folder(root, purpose=PURPOSE)
    check_split(root, manifest, split_name)
    shards = manifest.splits[split_name].files
    sizes = {root / manifest.name / shard.name: shard.num_bytes for shard in shards}
    paths = storage.local_files(sizes, purpose=PURPOSE)
    with storage.named(folder, root):
        check_sizes(folder, manifest, split_name)
    return paths


def shard_places(root: Location, name: str, split_name: str) -> Sequence[Location]:
    """Return where a split's shards lie, in order, for readers that verify the pages' checksums.

    On this machine they are checked as by `shard_paths`. In storage their sizes are: to take their checksums they would have
    to be read twice.

    Raises:
        DataError: The set is not prepared, or a shard is missing, truncated or altered.
        StorageError: Storage does not answer or refuses.
    """
    if storage.local_folder(root, purpose=PURPOSE) == root:
        return shard_paths(root, name, split_name)
    manifest = load_manifest(root, name)
    check_sizes(root, manifest, split_name)
    return [root / name / shard.name for shard in manifest.splits[split_name].files]


def _checked_paths(root: Location, manifest: Manifest, split_name: str) -> list[Path]:
    folder = storage.local_folder(root, purpose=PURPOSE)
    paths = sized_paths(root, manifest, split_name)
    with storage.named(folder, root):
        try:
            _check_sums(paths, manifest, split_name)
        except DataError:
            if folder == root:
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
