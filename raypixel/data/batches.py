"""Batches for training and evaluation, the same at any number of workers, from a split in memory or a stream.

A split is given in windows, and memory is a stream of one window. The order of epoch e is drawn from (seed, e): in memory it
is one permutation of the whole split, for a stream see `raypixel.data.stream`. Global batch s is the s-th slice of the
epoch's windows laid end to end, and worker r takes every `world_size`-th image of that slice. So order, batch and gradient do
not depend on the number of workers, and a training resumes at (epoch, step) without any iterator state.

From a stream each worker reads every window, also the images of the others: which images make a batch must not depend on the
number of workers, and reading is cheap beside a training step (docs/performance.md).
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from raypixel.data.levels import draw_shifts, shifted, to_levels
from raypixel.data.manifest import Manifest
from raypixel.data.options import DataConfig
from raypixel.data.splits import Split

SHIFT_STREAM = 3
"""Keeps the draws of a step's shifts apart from those of its levels."""


@dataclass(frozen=True)
class Batch:
    """One worker's share of a global batch.

    Attributes:
        x: Levels, (n, C, H, W), uint8; n may be zero in the last batch of an epoch.
        class_labels: (n,) int64, or None.
        global_size: Images in the whole batch over all workers.
    """

    x: Tensor
    class_labels: Tensor | None
    global_size: int


class Epochs(Protocol):
    """The windows of a split, epoch by epoch, in the order of training."""

    def windows(self, epoch: int, skip: int) -> tuple[Iterator[Split], int]:
        """Return the windows of an epoch from that on which has image `skip`, and how many of its images come before it."""
        ...

    def close(self) -> None:
        """Stop reading ahead."""
        ...


class ImageSource(Protocol):
    """A split in memory (`Split`) or streamed (`StreamedSplit`)."""

    def __len__(self) -> int: ...

    def epochs(self, seed: int) -> Epochs:
        """Return its windows in the order of training."""
        ...

    def once(self) -> Generator[Split, None, None]:
        """Yield windows that hold its images in the order of the split."""
        ...


@dataclass(frozen=True)
class _Share:
    """What one worker takes of each global batch."""

    config: DataConfig
    manifest: Manifest
    rank: int
    world_size: int

    @property
    def is_drawn(self) -> bool:
        """Whether levels are drawn batch by batch."""
        return self.config.binarization == "stochastic"

    def of(
        self,
        window: Split,
        start: int,
        stop: int,
        *,
        generator: torch.Generator | None = None,
        shifts: Tensor | None = None,
    ) -> Batch:
        """Take from the images `start` to `stop` of a window.

        Args:
            window: What they are taken from.
            start: First image of the global batch.
            stop: First image after it.
            generator: Given where levels are drawn.
            shifts: How far each image of the global batch moves, None for not at all; see `shifted`.
        """
        every = slice(self.rank, None, self.world_size)
        if generator is None:
            mine = window.take(start + self.rank, stop, self.world_size)
            x = mine.images if shifts is None else shifted(mine.images, shifts[every])
            return Batch(x, mine.class_labels, stop - start)
        # drawn for the whole batch on every worker, so that it does not depend on their number
        whole = window.take(start, stop)
        x = whole.images if shifts is None else shifted(whole.images, shifts)
        x = to_levels(x, self.config, self.manifest, generator=generator)
        labels = None if whole.class_labels is None else whole.class_labels[every]
        return Batch(x[every], labels, stop - start)


class TrainBatches:
    """Shuffled batches of one worker, epoch by epoch; the last one may be smaller (no image is dropped)."""

    def __init__(
        self,
        split: ImageSource,
        config: DataConfig,
        manifest: Manifest,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Hold the split.

        Args:
            split: Train images, as `open_split` returns them.
            config: Data options; stochastic binarization and shifts are drawn here.
            manifest: The prepared set.
            batch_size: Images of a global batch, over all workers.
            seed: Seed of order, binarization and shifts.
            rank: This worker.
            world_size: Number of workers.
        """
        self.batch_size = batch_size
        self.seed = seed
        self.num_images = len(split)
        self._share = _Share(config, manifest, rank, world_size)
        self._epochs = split.epochs(seed)

    @property
    def num_steps(self) -> int:
        """Batches of one epoch."""
        return -(-self.num_images // self.batch_size)

    def epoch(self, epoch: int, *, start_step: int = 0) -> Iterator[Batch]:
        """Yield this worker's batches of an epoch, from a step on; of a stream that costs reading one window."""
        steps = count(start_step)

        def share(window: Split, start: int, stop: int) -> Batch:
            step = next(steps)
            drawn = step_generator(self.seed, epoch, step) if self._share.is_drawn else None
            shifts = None
            if self._share.config.augment == "shift":
                shifts = draw_shifts(
                    stop - start, step_generator(self.seed, epoch, step, SHIFT_STREAM)
                )
            return self._share.of(window, start, stop, generator=drawn, shifts=shifts)

        windows, skip = self._epochs.windows(epoch, start_step * self.batch_size)
        yield from _cut(windows, self.batch_size, share, skip=skip)

    def close(self) -> None:
        """Stop reading ahead."""
        self._epochs.close()


class EvalBatches:
    """Batches of one worker for evaluation: every image once over all workers, in order, none repeated."""

    def __init__(
        self,
        split: ImageSource,
        config: DataConfig,
        manifest: Manifest,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Hold the split; see `TrainBatches`. Stochastic binarization is one draw from `binarization_seed`."""
        self.split = split
        self.batch_size = batch_size
        self._share = _Share(config, manifest, rank, world_size)

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        # draws follow each other through the whole split: the same images whatever the batch size
        share = self._share
        drawn = step_generator(share.config.binarization_seed) if share.is_drawn else None
        with closing(self.split.once()) as windows:
            yield from _cut(windows, self.batch_size, partial(share.of, generator=drawn))


def images_as_evaluated(split: Split, config: DataConfig, manifest: Manifest) -> Tensor:
    """Return all images of a split at the levels that an evaluation scores, (N, C, H, W), uint8."""
    if config.binarization != "stochastic":
        return split.images
    (whole,) = EvalBatches(split, config, manifest, batch_size=max(1, len(split)))
    return whole.x


def step_generator(*entropy: int) -> torch.Generator:
    """Return the source of the draws at a point named by numbers, such as (seed, epoch, step)."""
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


def _cut(
    windows: Iterator[Split],
    batch_size: int,
    share: Callable[[Split, int, int], Batch],
    *,
    skip: int = 0,
) -> Iterator[Batch]:
    """Cut the images of consecutive windows into batches; the last one may be smaller.

    What is left over at the end of a window is copied, so that it can be freed before the next is asked for. Only shares leave
    here, which are copies: who held a window would keep it in memory.

    Args:
        windows: In memory one at a time.
        batch_size: Images of a batch.
        share: Takes from the images `start` to `stop` of a window.
        skip: Images at the start that are left out.
    """
    rest: Split | None = None
    position = skip
    while (window := next(windows, None)) is not None:
        if rest is not None:
            position = batch_size - len(rest)
            rest = rest.joined(window.take(0, position))
            if len(rest) == batch_size:
                yield share(rest, 0, batch_size)
                rest = None
        while position + batch_size <= len(window):
            yield share(window, position, position + batch_size)
            position += batch_size
        if position < len(window):
            rest = window.take(position, len(window))
        position = 0
        window = None
    if rest is not None:
        yield share(rest, 0, len(rest))
