"""`raypixel sample`: draw images from a checkpoint."""

import time
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from raypixel.errors import ConfigError
from raypixel.models import PixelModel
from raypixel.sampling import image_seeds, sample


def draw(
    model: nn.Module,
    num_images: int,
    *,
    seed: int,
    temperature: float = 1.0,
    class_label: int | None = None,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Draw images, (N, C, H, W) uint8; image k depends on (seed, k) only.

    Args:
        model: A model on its device.
        num_images: How many.
        seed: Seed of the request.
        temperature: Divides the logits.
        class_label: Class of all images, for a class-conditional model; by default 0, 1, 2, ... in turn.
        batch_size: Images in memory at a time.
        progress: Called with 1 after each sub-pixel of a batch.

    Raises:
        ConfigError: The class is not one of the model's.
    """
    num_classes = cast(PixelModel, model).num_classes
    if class_label is not None and not 0 <= class_label < num_classes:
        known = (
            f"in [0, {num_classes - 1}]" if num_classes else "left out: the model has no classes"
        )
        raise ConfigError(f"--class must be {known}, got {class_label}")
    labels = None
    if num_classes:
        labels = torch.arange(num_images) % num_classes
        labels = labels if class_label is None else torch.full_like(labels, class_label)
    return sample(
        model,
        image_seeds(seed, num_images),
        class_labels=labels,
        temperature=temperature,
        batch_size=batch_size,
        progress=progress,
    )


def estimate_seconds(model: nn.Module, num_images: int) -> float:
    """Estimate how long `draw` takes from one forward pass for each sub-pixel."""
    pixel_model = cast(PixelModel, model)
    shape = pixel_model.image_shape
    device = next(model.parameters()).device
    x = torch.zeros((num_images, *shape), dtype=torch.uint8, device=device)
    labels = torch.zeros(num_images, dtype=torch.int64, device=device)
    with torch.no_grad():
        for _ in range(2):  # the first pass also allocates
            started = time.monotonic()
            model(x, labels if pixel_model.num_classes else None)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
    return (time.monotonic() - started) * shape[0] * shape[1] * shape[2]
