"""`raypixel sample`: draw images from a checkpoint."""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from raypixel.errors import ConfigError
from raypixel.models import PixelModel
from raypixel.sampling import CachedSampler, Image, Sampler, image_seeds, sample


def draw(
    model: PixelModel,
    num_images: int,
    *,
    seed: int,
    temperature: float = 1.0,
    class_label: int | None = None,
    batch_size: int = 64,
    sampler: Sampler = "cached",
    progress: Callable[[int], None] | None = None,
    watch: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Draw images, (N, C, H, W) uint8; image k depends on (seed, k) only.

    Args:
        model: A model on its device.
        num_images: How many.
        seed: Seed of the request.
        temperature: Divides the logits.
        class_label: Class of all images, for a class-conditional model; by default 0, 1, 2, ... in turn.
        batch_size: Images in memory at a time.
        sampler: "cached", or "oracle": one full pass for each sub-pixel.
        progress: Called with sub-pixels written in each image of a batch.
        watch: Called with the number of a batch's first image and its levels so far, after each row.

    Raises:
        ConfigError: The class is not one of the model's.
    """
    labels = class_labels_for(model, num_images, class_label)
    return sample(
        model,
        image_seeds(seed, num_images),
        class_labels=labels,
        temperature=temperature,
        batch_size=batch_size,
        sampler=sampler,
        progress=progress,
        watch=watch,
    )


def class_labels_for(model: PixelModel, num_images: int, class_label: int | None) -> Tensor | None:
    """Return (N,) labels: one class for all, or 0, 1, 2, ... in turn; None for a model without classes.

    Raises:
        ConfigError: The class is not one of the model's.
    """
    num_classes = model.num_classes
    if class_label is not None and not 0 <= class_label < num_classes:
        known = (
            f"in [0, {num_classes - 1}]" if num_classes else "left out: the model has no classes"
        )
        raise ConfigError(f"--class must be {known}, got {class_label}")
    if not num_classes:
        return None
    labels = torch.arange(num_images) % num_classes
    return labels if class_label is None else torch.full_like(labels, class_label)


def estimate_seconds(model: PixelModel, num_images: int) -> float:
    """Estimate how long `draw` takes from one row of the images, the second: the first also compiles."""
    model.eval()
    batch = CachedSampler(model, num_images)
    labels = class_labels_for(model, num_images, None)
    images = [
        Image(seed, None if labels is None else int(labels[seed])) for seed in range(num_images)
    ]
    batch.admit(range(num_images), images)
    width, num_pixels = batch.stages[0].plan.width, math.prod(batch.image_shape[1:])
    seconds = 0.0
    for _ in range(2):
        started = time.monotonic()
        batch.advance(width)
        if batch.x.device.type == "cuda":
            torch.cuda.synchronize(batch.x.device)
        seconds = time.monotonic() - started
    return seconds * num_pixels / width
