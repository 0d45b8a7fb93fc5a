"""The cached sampler: an image costs about one forward pass, because nothing is computed twice.

Its parameters equal the full pass, and its samples the oracle's for the same seeds, to rounding.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from raypixel.sampling.slots import Backend, Image, Slots


def sample_batch(
    model: nn.Module,
    seeds: Sequence[int],
    *,
    class_labels: Tensor | None = None,
    temperature: float = 1.0,
    x: Tensor | None = None,
    observed: Tensor | None = None,
    progress: Callable[[int], None] | None = None,
    watch: Callable[[Tensor], None] | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """Draw one image for each seed, all at one position.

    Args:
        model: A registered model in evaluation mode, on its device.
        seeds: One seed for each image.
        class_labels: (N,) int64 for a class-conditional model.
        temperature: Divides the logits.
        x: Levels, (N, C, H, W), of which the observed ones are kept.
        observed: Which sub-pixels are kept, (N, C, H, W), bool.
        progress: Called with the number of sub-pixels that each image has gained.
        watch: Called with the levels so far, (N, C, H, W), after each row.
        backend: "torch", "fused" or "recorded"; by default the fastest one.

    Returns:
        Levels, (N, C, H, W), uint8, on the CPU.
    """
    batch = Slots(model, len(seeds), backend=backend)
    images = [
        Image(
            seed,
            None if class_labels is None else int(class_labels[k]),
            temperature,
            None if x is None else x[k],
            None if observed is None else observed[k],
        )
        for k, seed in enumerate(seeds)
    ]
    slots = range(len(seeds))
    batch.admit(slots, images)
    channels = batch.image_shape[0]
    done = 0
    for number, stage in enumerate(batch.stages):
        if batch.backend != "fused":
            batch.prefill(slots)
        given = 0 if stage.given is None else int(stage.given.sum())
        total = channels * (stage.height * stage.plan.width - given)
        before = done
        while batch.stage[0] == number:
            batch.advance(stage.plan.width)
            row = int(batch.row[0]) if batch.stage[0] == number else stage.height
            gained = before + math.floor(total * row / stage.height) - done
            done += gained
            if progress:
                progress(gained)
            if watch:
                watch(batch.x.cpu())
    return batch.x.cpu()


def teacher_forced(
    model: nn.Module,
    x: Tensor,
    class_labels: Tensor | None = None,
    *,
    backend: Backend | None = None,
) -> Tensor:
    """Return the parameters of every sub-pixel of x, (N, P, C, H, W), position by position, as sampling computes them."""
    batch = Slots(model, len(x), backend=backend, records=True)
    observed = torch.ones_like(x[0], dtype=torch.bool)
    labels = [None] * len(x) if class_labels is None else class_labels.tolist()
    batch.admit(
        range(len(x)),
        [Image(0, label, 1.0, each, observed) for each, label in zip(x, labels, strict=True)],
    )
    while len(batch.finished()) < len(x):
        batch.advance()
    return batch.recorded
