"""The oracle sampler: one full forward pass for each sub-pixel, nothing kept in between.

Slow and plainly right: faster samplers are held to it. The noise of an image comes from its own seed, drawn
up front (Gumbel-max), so image k of a seed is the same alone or in any batch, on any device to rounding.

Reference: van den Oord et al. 2016a, sec. 2.1 (raster-scan order, R then G then B; a model may order pixels otherwise).
"""

import math
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from raypixel.models.registry import PixelModel, generation_order
from raypixel.nn.likelihoods import gumbel_noise


def image_seeds(seed: int, num_images: int) -> list[int]:
    """Derive one seed for each image of a request; image k depends on (seed, k) only."""
    return [
        int(np.random.SeedSequence([seed, k]).generate_state(1, np.uint64)[0] >> np.uint64(1))
        for k in range(num_images)
    ]


def image_noise(model: nn.Module, seed: int) -> Tensor:
    """Draw the noise of one image, (C * H * W, noise_size), float32, in the order of generation."""
    pixel_model = cast(PixelModel, model)
    shape = (math.prod(pixel_model.image_shape), pixel_model.likelihood.noise_size)
    return gumbel_noise(shape, torch.Generator().manual_seed(seed)).float()


@torch.no_grad()
def sample(
    model: nn.Module,
    seeds: Sequence[int],
    *,
    class_labels: Tensor | None = None,
    temperature: float = 1.0,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Draw one image for each seed.

    Args:
        model: A registered model, on its device; it is used in evaluation mode.
        seeds: One seed for each image, see `image_seeds`.
        class_labels: (N,) int64 for a class-conditional model.
        temperature: Divides the logits; 1 samples the model, less sharpens it.
        batch_size: Images in memory at a time; does not change the result.
        progress: Called with 1 after each sub-pixel of a batch.

    Returns:
        Levels, (N, C, H, W), uint8, on the CPU.

    Raises:
        ValueError: The temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    was_training = model.training
    model.eval()
    try:
        images = [
            _sample_batch(
                model,
                seeds[start : start + batch_size],
                class_labels=(
                    None if class_labels is None else class_labels[start : start + batch_size]
                ),
                temperature=temperature,
                progress=progress,
            )
            for start in range(0, len(seeds), batch_size)
        ]
    finally:
        model.train(was_training)
    shape = cast(PixelModel, model).image_shape
    return torch.cat(images) if images else torch.empty((0, *shape), dtype=torch.uint8)


def _sample_batch(
    model: nn.Module,
    seeds: Sequence[int],
    *,
    class_labels: Tensor | None,
    temperature: float,
    progress: Callable[[int], None] | None,
) -> Tensor:
    pixel_model = cast(PixelModel, model)
    device = next(model.parameters()).device
    channels, height, width = pixel_model.image_shape
    noise = torch.stack([image_noise(model, seed) for seed in seeds]).to(device)  # (N, D, noise)
    labels = None if class_labels is None else class_labels.to(device)
    x = torch.zeros(len(seeds), channels, height, width, dtype=torch.uint8, device=device)
    dimension = 0
    for i, j in generation_order(model):
        for c in range(channels):
            params = model(x, labels)[:, :, c, i, j]  # (N, P)
            x[:, c, i, j] = pixel_model.likelihood.sample(
                params, noise[:, dimension], temperature=temperature
            ).to(torch.uint8)
            dimension += 1
            if progress:
                progress(1)
    return x.cpu()
