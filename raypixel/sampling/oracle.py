"""The oracle sampler: one full forward pass for each sub-pixel, nothing kept in between.

Slow and plainly right: faster samplers are held to it. The noise of an image comes from its own seed, drawn
up front (Gumbel-max), so image k of a seed is the same alone or in any batch, on any device to rounding.

Reference: van den Oord et al. 2016a, sec. 2.1 (raster-scan order, R then G then B; a model may order pixels otherwise).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raypixel.models import PixelModel
from raypixel.nn.likelihoods import gumbel_noise


@dataclass(frozen=True)
class Image:
    """One image to be made.

    Attributes:
        seed: Seed of its noise.
        class_label: Its class, for a class-conditional model.
        temperature: Divides the logits.
        x: Levels of the observed sub-pixels, (C, H, W); None if nothing is observed.
        observed: Which sub-pixels are kept from x, (C, H, W), bool.
    """

    seed: int
    class_label: int | None = None
    temperature: float = 1.0
    x: Tensor | None = None
    observed: Tensor | None = None


def image_noise(model: PixelModel, seed: int) -> Tensor:
    """Draw the noise of one image, (C * H * W, noise_size), float32, in the order of generation."""
    shape = (math.prod(model.image_shape), model.likelihood.noise_size)
    return gumbel_noise(shape, torch.Generator().manual_seed(seed)).float()


@torch.no_grad()
def draw(
    model: PixelModel,
    images: Sequence[Image],
    *,
    progress: Callable[[int], None] | None = None,
    watch: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Draw images; arguments and result are those of `raypixel.sampling.cached.draw`."""
    device = next(model.parameters()).device
    channels, height, width = model.image_shape
    noise = torch.stack([image_noise(model, image.seed) for image in images]).to(device)  # N, D, P
    temperature = torch.tensor([[image.temperature] for image in images], device=device)
    labels = None
    if images[0].class_label is not None:
        labels = torch.tensor([image.class_label for image in images], device=device)
    levels = torch.zeros(len(images), channels, height, width, dtype=torch.uint8, device=device)
    keeps = torch.zeros_like(levels, dtype=torch.bool)
    for k, image in enumerate(images):
        if image.x is not None and image.observed is not None:
            keeps[k] = image.observed.to(device)
            levels[k] = torch.where(keeps[k], image.x.to(device), levels[k])
    for number, (i, j) in enumerate(model.generation_order()):
        for c in range(channels):
            params = model(levels, labels)[..., i, j]  # (N, P, C), or (N, P) of whole pixels
            drawn = model.likelihood.sample(
                params,
                noise[:, number * channels + c],
                given=levels[:, :c, i, j],
                temperature=temperature.to(params.dtype),
            )
            levels[:, c, i, j] = torch.where(keeps[:, c, i, j], levels[:, c, i, j], drawn)
            if progress:
                progress(1)
        if watch and (number + 1) % width == 0:
            watch(levels.cpu())
    return levels.cpu()
