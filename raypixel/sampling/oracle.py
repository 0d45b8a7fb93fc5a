"""The oracle sampler: one full forward pass for each sub-pixel, nothing kept in between.

Slow and plainly right: faster samplers are held to it. The noise of an image comes from its own seed, drawn
up front (Gumbel-max), so image k of a seed is the same alone or in any batch, on any device to rounding.

Reference: van den Oord et al. 2016a, sec. 2.1 (raster-scan order, R then G then B; a model may order pixels otherwise).
"""

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from raypixel.models.registry import PixelModel, generation_order
from raypixel.nn.likelihoods import gumbel_noise


def image_noise(model: nn.Module, seed: int) -> Tensor:
    """Draw the noise of one image, (C * H * W, noise_size), float32, in the order of generation."""
    pixel_model = cast(PixelModel, model)
    shape = (math.prod(pixel_model.image_shape), pixel_model.likelihood.noise_size)
    return gumbel_noise(shape, torch.Generator().manual_seed(seed)).float()


@torch.no_grad()
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
) -> Tensor:
    """Draw one image for each seed; arguments and result are those of `raypixel.sampling.cached.sample_batch`."""
    pixel_model = cast(PixelModel, model)
    device = next(model.parameters()).device
    channels, height, width = pixel_model.image_shape
    noise = torch.stack([image_noise(model, seed) for seed in seeds]).to(device)  # (N, D, noise)
    labels = None if class_labels is None else class_labels.to(device)
    levels = torch.zeros(len(seeds), channels, height, width, dtype=torch.uint8, device=device)
    keeps = torch.zeros_like(levels, dtype=torch.bool)
    if x is not None and observed is not None:
        keeps = observed.to(device)
        levels = torch.where(keeps, x.to(device), levels)
    for number, (i, j) in enumerate(generation_order(model)):
        for c in range(channels):
            params = model(levels, labels)[:, :, c, i, j]  # (N, P)
            drawn = pixel_model.likelihood.sample(
                params, noise[:, number * channels + c], temperature=temperature
            ).to(torch.uint8)
            levels[:, c, i, j] = torch.where(keeps[:, c, i, j], levels[:, c, i, j], drawn)
            if progress:
                progress(1)
        if watch and (number + 1) % width == 0:
            watch(levels.cpu())
    return levels.cpu()
