"""Drawing images: a cached sampler, and the oracle that it is held to."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from raypixel.models.registry import PixelModel
from raypixel.sampling import cached, oracle
from raypixel.sampling.oracle import image_noise
from raypixel.sampling.slots import Image, Slots

__all__ = ["Image", "Sampler", "Slots", "image_noise", "image_seeds", "sample"]

Sampler = Literal["cached", "oracle"]
_SAMPLERS = {"cached": cached.sample_batch, "oracle": oracle.sample_batch}


def image_seeds(seed: int, num_images: int) -> list[int]:
    """Derive one seed for each image of a request; image k depends on (seed, k) only."""
    return [
        int(np.random.SeedSequence([seed, k]).generate_state(1, np.uint64)[0] >> np.uint64(1))
        for k in range(num_images)
    ]


def sample(
    model: nn.Module,
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
    shape = (len(seeds), *cast(PixelModel, model).image_shape)
    _check_observed(x, observed, shape)
    was_training = model.training
    model.eval()
    images = []
    try:
        for start in range(0, len(seeds), batch_size):
            part = slice(start, start + batch_size)
            images.append(
                _SAMPLERS[sampler](
                    model,
                    seeds[part],
                    class_labels=None if class_labels is None else class_labels[part],
                    temperature=temperature,
                    x=None if x is None else x[part],
                    observed=None if observed is None else observed[part],
                    progress=progress,
                    watch=None if watch is None else _numbered(watch, start),
                )
            )
    finally:
        model.train(was_training)
    return torch.cat(images) if images else torch.empty(shape, dtype=torch.uint8)


def _check_observed(x: Tensor | None, observed: Tensor | None, shape: tuple[int, ...]) -> None:
    if (x is None) != (observed is None):
        raise ValueError("x and observed must be given together, got one of them")
    for name, value in (("x", x), ("observed", observed)):
        if value is not None and value.shape != shape:
            raise ValueError(f"{name} must be {shape}, got {tuple(value.shape)}")


def _numbered(watch: Callable[[int, Tensor], None], start: int) -> Callable[[Tensor], None]:
    return lambda levels: watch(start, levels)
