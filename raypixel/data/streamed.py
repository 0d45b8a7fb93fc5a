"""Batches from a split that is streamed: the laws of `raypixel.data.loader`, in bounded memory.

Global batch s of an epoch is the s-th slice of the epoch's windows laid end to end, and worker r takes every
`world_size`-th image of that slice. Each worker reads every window, also the images of the others: which images make a
batch must not depend on the number of workers, and reading is cheap beside a training step (docs/performance.md).
"""

import itertools
from collections.abc import Generator, Iterator
from typing import cast

import torch
from torch import Tensor

from raypixel.data.config import DataConfig
from raypixel.data.levels import to_levels
from raypixel.data.loader import (
    Batch,
    EvalBatches,
    TrainBatches,
    step_generator,
)
from raypixel.data.manifest import Manifest
from raypixel.data.shards import Split
from raypixel.data.stream import StreamedSplit, Window


class StreamedTrainBatches:
    """Shuffled batches of one worker from a stream; see `raypixel.data.loader.TrainBatches`.

    Reading goes on across epochs: the first window of the next is read while the last batches of one are used.
    """

    def __init__(
        self,
        split: StreamedSplit,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Hold the split; see `TrainBatches`."""
        self.split = split
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self._stream: Iterator[Split] = iter(())
        self._next: tuple[int, int] | None = None

    @property
    def num_steps(self) -> int:
        """Batches of one epoch."""
        return -(-len(self.split) // self.batch_size)

    def epoch(self, epoch: int, *, start_step: int = 0) -> Iterator[Batch]:
        """Yield this worker's batches of an epoch, from a step on, which costs reading one window."""
        windows = self.split.shuffled(self.seed, epoch)
        skipped, first = start_step * self.batch_size, 0
        while first < len(windows) and skipped >= windows[first].num_images:
            skipped -= windows[first].num_images
            first += 1
        if (epoch, first) != self._next:
            self.close()
            self._stream = self.split.read(self._windows_from(epoch, first))
        whole = rebatch(self._track(epoch, first, len(windows)), self.batch_size, skip=skipped)
        for step, (x, labels) in enumerate(whole, start_step):
            yield self._share(x, labels, epoch, step)

    def close(self) -> None:
        """Stop reading ahead."""
        stop(self._stream)
        self._stream, self._next = iter(()), None

    def _windows_from(self, epoch: int, first: int) -> Iterator[Window]:
        for number in itertools.count(epoch):
            yield from self.split.shuffled(self.seed, number)[first:]
            first = 0

    def _track(self, epoch: int, first: int, num_windows: int) -> Iterator[Split]:
        """Yield the rest of an epoch from the stream, keeping where the stream stands."""
        for number in range(first, num_windows):
            is_last = number + 1 == num_windows
            self._next = (epoch + 1, 0) if is_last else (epoch, number + 1)
            yield next(self._stream)

    def _share(self, x: Tensor, labels: Tensor | None, epoch: int, step: int) -> Batch:
        config, manifest = self.split.config, self.split.manifest
        size, mine = len(x), slice(self.rank, None, self.world_size)
        if config.binarization == "stochastic":
            # drawn for the whole batch on every worker, so that it does not depend on their number
            x = to_levels(x, config, manifest, generator=step_generator(self.seed, epoch, step))
        return Batch(x[mine], None if labels is None else labels[mine], size)


class StreamedEvalBatches:
    """Batches of one worker for evaluation from a stream; see `raypixel.data.loader.EvalBatches`."""

    def __init__(
        self, split: StreamedSplit, *, batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        """Hold the split; the images are those of `EvalBatches`, stochastic binarization included."""
        self.split = split
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        config, manifest = self.split.config, self.split.manifest
        generator = step_generator(config.binarization_seed)
        stream = self.split.read(iter(self.split.in_order()))
        try:
            for x, labels in rebatch(stream, self.batch_size):
                size, mine = len(x), slice(self.rank, None, self.world_size)
                if config.binarization == "stochastic":
                    x = to_levels(x, config, manifest, generator=generator)
                yield Batch(x[mine], None if labels is None else labels[mine], size)
        finally:
            stop(stream)


def open_train_batches(
    split: Split | StreamedSplit,
    config: DataConfig,
    manifest: Manifest,
    *,
    batch_size: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
) -> TrainBatches | StreamedTrainBatches:
    """Return the train batches of one worker, from memory or from a stream; see `TrainBatches`."""
    if isinstance(split, StreamedSplit):
        return StreamedTrainBatches(
            split, batch_size=batch_size, seed=seed, rank=rank, world_size=world_size
        )
    shares = {"rank": rank, "world_size": world_size}
    return TrainBatches(split, config, manifest, batch_size=batch_size, seed=seed, **shares)


def open_eval_batches(
    split: Split | StreamedSplit,
    config: DataConfig,
    manifest: Manifest,
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
) -> EvalBatches | StreamedEvalBatches:
    """Return the evaluation batches of one worker, from memory or from a stream; see `EvalBatches`."""
    shares = {"rank": rank, "world_size": world_size}
    if isinstance(split, StreamedSplit):
        return StreamedEvalBatches(split, batch_size=batch_size, **shares)
    return EvalBatches(split, config, manifest, batch_size=batch_size, **shares)


def rebatch(
    splits: Iterator[Split], batch_size: int, *, skip: int = 0
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Cut the images of consecutive splits into batches; the last one may be smaller.

    What is left over at the end of a split is copied, so that the split can be freed before the next is asked for.

    Args:
        splits: In memory one at a time.
        batch_size: Images of a batch.
        skip: Images at the start that are left out, fewer than the first split has.
    """
    rest_x: Tensor | None = None
    rest_labels: Tensor | None = None
    position = skip
    while (split := next(splits, None)) is not None:
        if rest_x is not None:
            position = batch_size - len(rest_x)
            x = torch.cat([rest_x, split.images[:position]])
            labels = _joined(rest_labels, split.class_labels, position)
            rest_x, rest_labels = x, labels
            if len(x) == batch_size:
                rest_x = rest_labels = None
                yield x, labels
        for start in range(position, len(split), batch_size):
            # a copy of its own: a view would keep the whole window in memory
            part = slice(start, start + batch_size)
            x = split.images[part].clone()
            labels = None if split.class_labels is None else split.class_labels[part].clone()
            if len(x) < batch_size:
                rest_x, rest_labels = x, labels
                break
            yield x, labels
        position = 0
        split = None
    if rest_x is not None:
        yield rest_x, rest_labels


def stop(stream: Iterator[Split]) -> None:
    """End a generator that reads ahead, and its thread."""
    if isinstance(stream, Generator):
        cast("Generator[Split, None, None]", stream).close()


def _joined(rest: Tensor | None, labels: Tensor | None, count: int) -> Tensor | None:
    return None if rest is None or labels is None else torch.cat([rest, labels[:count]])
