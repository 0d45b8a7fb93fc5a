"""Batches for training and evaluation from a split held in memory, the same at any number of workers.

The order of epoch e is one permutation of the whole split, drawn from (seed, e). Global batch s is the s-th slice
of it, and worker r takes every `world_size`-th image of that slice. So order, batch and gradient do not depend on
the number of workers, and a training resumes at (epoch, step) without any iterator state.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raypixel.data.config import DataConfig
from raypixel.data.levels import to_levels
from raypixel.data.manifest import Manifest
from raypixel.data.shards import Split


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


class TrainBatches:
    """Shuffled batches of one worker, epoch by epoch; the last one may be smaller (no image is dropped)."""

    def __init__(
        self,
        split: Split,
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
            split: Train images, as `fix_levels` returns them.
            config: Data options; stochastic binarization is drawn here.
            manifest: The prepared set.
            batch_size: Images of a global batch, over all workers.
            seed: Seed of order and binarization.
            rank: This worker.
            world_size: Number of workers.
        """
        self.split = split
        self.config = config
        self.manifest = manifest
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size

    @property
    def num_steps(self) -> int:
        """Batches of one epoch."""
        return -(-len(self.split) // self.batch_size)

    def epoch(self, epoch: int, *, start_step: int = 0) -> Iterator[Batch]:
        """Yield this worker's batches of an epoch, from a step on."""
        order = torch.from_numpy(_generator(self.seed, epoch).permutation(len(self.split)))
        for step in range(start_step, self.num_steps):
            chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield self._batch(chosen, epoch, step)

    def close(self) -> None:
        """Let go of nothing: the split is the caller's."""

    def _batch(self, chosen: Tensor, epoch: int, step: int) -> Batch:
        mine = chosen[self.rank :: self.world_size]
        if self.config.binarization == "stochastic":
            # drawn for the whole batch on every worker, so that it does not depend on their number
            x = self.split.images[chosen]
            x = to_levels(
                x, self.config, self.manifest, generator=step_generator(self.seed, epoch, step)
            )
            x = x[self.rank :: self.world_size]
        else:
            x = self.split.images[mine]
        labels = self.split.class_labels
        return Batch(x, None if labels is None else labels[mine], len(chosen))


class EvalBatches:
    """Batches of one worker for evaluation: every image once over all workers, in order, none repeated."""

    def __init__(
        self,
        split: Split,
        config: DataConfig,
        manifest: Manifest,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Hold the split; see `TrainBatches`. Stochastic binarization is one draw from `binarization_seed`."""
        self.images = split.images
        if config.binarization == "stochastic":
            # one draw over the whole split: the same images whatever the batch size
            generator = step_generator(config.binarization_seed)
            self.images = to_levels(split.images, config, manifest, generator=generator)
        self.class_labels = split.class_labels
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for step in range(len(self)):
            chosen = slice(step * self.batch_size, (step + 1) * self.batch_size)
            x = self.images[chosen]
            labels = None if self.class_labels is None else self.class_labels[chosen]
            mine = slice(self.rank, None, self.world_size)
            yield Batch(x[mine], None if labels is None else labels[mine], len(x))


def _generator(*entropy: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(entropy))


def step_generator(*entropy: int) -> torch.Generator:
    """Return the source of the draws at a point named by numbers, such as (seed, epoch, step)."""
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))
