"""Drawing images: a cached sampler, and the oracle that it is held to."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from raypixel.models import PixelModel
from raypixel.sampling import cached, oracle
from raypixel.sampling.cached import CachedSampler
from raypixel.sampling.oracle import Image, image_noise

__all__ = ["CachedSampler", "Image", "Sampler", "image_noise", "image_seeds", "sample"]

Sampler = Literal["cached", "oracle"]


def image_seeds(seed: int, num_images: int) -> list[int]:
    """Derive one seed for each image of a request; image k depends on (seed, k) only."""
    return [
        int(np.random.SeedSequence([seed, k]).generate_state(1, np.uint64)[0] >> np.uint64(1))
        for k in range(num_images)
    ]


def sample(
    model: PixelModel,
    seeds: Sequence[int],
    *,
    class_labels: Tensor | None = None,
    temperature: float = 1.0,
    x: Tensor | None = None,
    observed: Tensor | None = None,
    batch_size: int = 64,
    sampler: Sampler = "cached",
    progress: Callable[[int], None] | None = None,
    watch: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Draw one image for each seed.

    Observed sub-pixels are kept from x. Each of the others is drawn given what precedes it in the model's order, be it observed
    or drawn; observed ones that follow it do not count. The noise of a sub-pixel is the same whatever is observed.

    Args:
        model: A registered model, on its device; it is used in evaluation mode.
        seeds: One seed for each image, see `image_seeds`.
        class_labels: (N,) int64 for a class-conditional model.
        temperature: Divides the logits; 1 samples the model, less sharpens it.
        x: Levels of the observed sub-pixels, (N, C, H, W).
        observed: Which sub-pixels are observed, (N, C, H, W), bool.
        batch_size: Images in memory at a time; does not change the result.
        sampler: "cached", or "oracle": one full pass for each sub-pixel.
        progress: Called with sub-pixels written in each image of a batch.
        watch: Called with the number of a batch's first image and its levels so far, after each row.

    Returns:
        Levels, (N, C, H, W), uint8, on the CPU.

    Raises:
        ValueError: The temperature is not positive and finite, x does not fit the model, or labels do not.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    shape = (len(seeds), *model.image_shape)
    if (x is None) != (observed is None):
        raise ValueError("x and observed must be given together, got one of them")
    for name, value in (("x", x), ("observed", observed)):
        if value is not None and value.shape != shape:
            raise ValueError(f"{name} must be {shape}, got {tuple(value.shape)}")
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
    draw = oracle.draw if sampler == "oracle" else cached.draw
    was_training = model.training
    model.eval()
    drawn = []
    try:
        for start in range(0, len(seeds), batch_size):
            watch_batch = None if watch is None else partial(watch, start)
            batch = images[start : start + batch_size]
            drawn.append(draw(model, batch, progress=progress, watch=watch_batch))
    finally:
        model.train(was_training)
    return torch.cat(drawn) if drawn else torch.empty(shape, dtype=torch.uint8)
