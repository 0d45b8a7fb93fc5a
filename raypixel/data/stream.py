"""Images read as they are needed, for a set that does not fit in memory: what is read when, and the reading.

A shard is a row of blocks (Parquet row groups of about 4 MiB). An epoch visits them in an order drawn from (seed, epoch),
some at a time: the images of such a window are permuted among each other. So a batch mixes images of blocks from all over the
set, each image comes once in an epoch, a training resumes at any step by reading one window, and what is in memory is
bounded whatever the size of the set. The order is a function of (seed, epoch) and the window's size alone.
"""

import itertools
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from raypixel import storage
from raypixel.data.levels import fix_levels, to_levels
from raypixel.data.manifest import PURPOSE, Manifest
from raypixel.data.options import DataConfig
from raypixel.data.splits import (
    Split,
    permutation,
    read_block,
    read_split,
    sized_paths,
    sizes_of_blocks,
)
from raypixel.errors import ConfigError
from raypixel.storage import Location, absolute

WINDOWS_IN_MEMORY = 6
"""On Ray workers training holds three windows, the one in use and two ahead, and validation three; while it validates,
training holds two. In one process each holds one less."""

SPLIT_STREAM, ORDER_STREAM = 1, 2
"""Keep the draws of an epoch's order of blocks and of its windows apart."""


@dataclass(frozen=True)
class Block:
    """Images of a shard that are read at once.

    Attributes:
        place: Of the shard.
        num_bytes: Size of the shard's file.
        number: Row group of the shard.
        num_images: How many of its images are used, from the first on.
    """

    place: Location
    num_bytes: int
    number: int
    num_images: int


@dataclass(frozen=True)
class Window:
    """Blocks whose images are in memory together.

    Attributes:
        blocks: In reading order.
        entropy: Seeds of the permutation of their images; None leaves them in order.
    """

    blocks: tuple[Block, ...]
    entropy: tuple[int, ...] | None

    @property
    def num_images(self) -> int:
        """Images of all its blocks."""
        return sum(block.num_images for block in self.blocks)


ReadFn = Callable[[Window], Split]
DeliverFn = Callable[[ReadFn, Iterator[Window], int], Generator[Split, None, None]]
"""Read windows, which may be endlessly many, in order and ahead of their use; the number is the bytes of an image."""


def read_ahead(
    read: ReadFn, windows: Iterator[Window], num_dims: int
) -> Generator[Split, None, None]:
    """Read windows on a thread, one ahead: two are in memory, that in use and the next.

    The caller lets go of a window before it asks for the next.
    """
    del num_dims  # two windows are two windows
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
        pending = [pool.submit(read, window) for window in _first(windows)]
        while pending:
            ready = [pending.pop().result()]
            pending += [pool.submit(read, window) for window in _first(windows)]
            yield ready.pop()


@dataclass(frozen=True)
class StreamedSplit:
    """A split on the disk, and how it is read; `open_stream` makes it.

    Attributes:
        blocks: Of the images that are used, in the order of the split.
        config: The options.
        manifest: The prepared set.
        window_bytes: Bytes of the images of one window, at most; but a window has at least one block.
        deliver: Reads windows ahead of their use.
    """

    blocks: tuple[Block, ...]
    config: DataConfig
    manifest: Manifest
    window_bytes: int
    deliver: DeliverFn = read_ahead

    def __len__(self) -> int:
        return sum(block.num_images for block in self.blocks)

    def shuffled(self, seed: int, epoch: int) -> list[Window]:
        """Return the windows of an epoch of training."""
        order = permutation(len(self.blocks), seed, epoch, SPLIT_STREAM)
        parts = self._parts([self.blocks[position] for position in order])
        return [
            Window(blocks, (seed, epoch, ORDER_STREAM, number))
            for number, blocks in enumerate(parts)
        ]

    def in_order(self) -> list[Window]:
        """Return windows that hold the images in the order of the split."""
        return [Window(blocks, None) for blocks in self._parts(list(self.blocks))]

    def read(self, windows: Iterator[Window]) -> Generator[Split, None, None]:
        """Yield the images of windows, at the levels that a batch is made from."""
        read = partial(read_window, config=self.config, manifest=self.manifest)
        return self.deliver(read, windows, self.manifest.num_dims)

    def once(self) -> Generator[Split, None, None]:
        """Yield the images in the order of the split, window by window."""
        return self.read(iter(self.in_order()))

    def epochs(self, seed: int) -> "ReadEpochs":
        """Return the windows of every epoch of training, as they are read."""
        return ReadEpochs(self, seed)

    def _parts(self, blocks: list[Block]) -> list[tuple[Block, ...]]:
        room = self.window_bytes // self.manifest.num_dims
        parts: list[tuple[Block, ...]] = []
        part: list[Block] = []
        for block in blocks:
            if part and sum(b.num_images for b in part) + block.num_images > room:
                parts.append(tuple(part))
                part = []
            part.append(block)
        return [*parts, tuple(part)] if part else parts


class ReadEpochs:
    """Epochs of a split that is streamed.

    Reading goes on across epochs: the first window of the next is read while the last batches of one are used.
    """

    def __init__(self, split: StreamedSplit, seed: int) -> None:
        """Read nothing yet."""
        self.split = split
        self.seed = seed
        self._stream: Generator[Split, None, None] | None = None
        self._next: tuple[int, int] | None = None

    def windows(self, epoch: int, skip: int) -> tuple[Iterator[Split], int]:
        """Return the windows of an epoch from that on which has image `skip`, and how many of its images come before it."""
        planned, first = self.split.shuffled(self.seed, epoch), 0
        while first < len(planned) and skip >= planned[first].num_images:
            skip -= planned[first].num_images
            first += 1
        if (epoch, first) != self._next:
            self.close()
            self._stream = self.split.read(self._planned_from(epoch, first))
        return self._track(epoch, first, len(planned)), skip

    def close(self) -> None:
        """Stop reading ahead."""
        if self._stream is not None:
            self._stream.close()
        self._stream = self._next = None

    def _planned_from(self, epoch: int, first: int) -> Iterator[Window]:
        for number in itertools.count(epoch):
            yield from self.split.shuffled(self.seed, number)[first:]
            first = 0

    def _track(self, epoch: int, first: int, num_windows: int) -> Iterator[Split]:
        """Yield the rest of an epoch from the stream, keeping where the stream stands."""
        for number in range(first, num_windows):
            is_last = number + 1 == num_windows
            self._next = (epoch + 1, 0) if is_last else (epoch, number + 1)
            assert self._stream is not None
            yield next(self._stream)


def open_split(
    config: DataConfig, manifest: Manifest, split_name: str, *, deliver: DeliverFn = read_ahead
) -> Split | StreamedSplit:
    """Read a split with the data options applied, or plan its streaming, as the decided data residence says.

    Raises:
        ConfigError: The options do not fit the data set.
        DataError: A shard is missing or damaged.
    """
    assert config.backend != "auto", "decide_residence comes first"
    if config.backend == "stream":
        return open_stream(config, manifest, split_name, deliver=deliver)
    split = read_split(config.root, config.name, split_name)
    return fix_levels(split, config, manifest, split_name=split_name)


def open_stream(
    config: DataConfig, manifest: Manifest, split_name: str, *, deliver: DeliverFn = read_ahead
) -> StreamedSplit:
    """Plan the streaming of a split; nothing but the shards' sizes and tables of contents is read.

    Raises:
        ConfigError: The options need the whole split at once.
        DataError: A shard is missing or truncated.
    """
    if config.binarization == "fixed" and manifest.num_levels > 2:
        rule = "must be 'memory' with binarization 'fixed', which is drawn for the whole split"
        raise ConfigError(f"data.backend {rule}, got 'stream'")
    left = manifest.splits[split_name].num_images
    limit = config.max_train_images if split_name == "train" else config.max_eval_images
    left = left if limit is None else min(left, limit)
    blocks = []
    folder = absolute(config.root) / manifest.name
    shards = manifest.splits[split_name].files
    for path, shard in zip(sized_paths(config.root, manifest, split_name), shards, strict=True):
        if left == 0:
            break
        for number, size in enumerate(sizes_of_blocks(path, manifest)):
            used = min(size, left)
            left -= used
            if used:
                blocks.append(Block(folder / shard.name, shard.num_bytes, number, used))
    window_bytes = (config.stream_memory_mib << 20) // WINDOWS_IN_MEMORY
    return StreamedSplit(tuple(blocks), config, manifest, window_bytes, deliver)


def read_window(window: Window, *, config: DataConfig, manifest: Manifest) -> Split:
    """Read the images of a window, each block straight to its images' places.

    Raises:
        DataError: A block is damaged.
    """
    count = window.num_images
    images = torch.empty((count, *manifest.image_shape), dtype=torch.uint8)
    labels = torch.empty(count, dtype=torch.int64) if manifest.num_classes else None
    places = np.arange(count)
    if window.entropy is not None:
        places = permutation(count, *window.entropy)
    start = 0
    for block in window.blocks:
        chosen = torch.from_numpy(places[start : start + block.num_images])
        # not where the plan was made: a task of Ray Data may run on a machine that has no working copy yet
        path = storage.local_file(block.place, block.num_bytes, purpose=PURPOSE)
        with storage.named(path, block.place):
            levels, part_labels = read_block(path, block.number, manifest)
        levels = levels[: block.num_images]
        if config.binarization != "stochastic":  # that is drawn anew for each batch
            levels = to_levels(levels, config, manifest)
        images[chosen] = levels
        if labels is not None and part_labels is not None:
            labels[chosen] = part_labels[: block.num_images]
        start += block.num_images
    return Split(images=images, class_labels=labels)


def _first(windows: Iterator[Window]) -> list[Window]:
    window = next(windows, None)
    return [] if window is None else [window]
