"""From the levels at rest to the levels a model is trained on: binarization and quantization.

`fix_levels` does once, over a whole split, everything that is the same in every epoch. `to_levels` maps one batch of
prepared levels; after `fix_levels` only a stochastic binarization is left for it.
"""

import hashlib

import torch
from torch import Tensor

from raypixel.data.manifest import Manifest
from raypixel.data.options import DataConfig, num_levels_of
from raypixel.data.splits import Split


def to_levels(
    x: Tensor, config: DataConfig, manifest: Manifest, *, generator: torch.Generator | None = None
) -> Tensor:
    """Map prepared levels to the levels of a config.

    The draw of `fixed` is made by `fix_levels`, over a whole split, and is not repeated here.

    Args:
        x: Levels as prepared, in [0, manifest.num_levels - 1], any shape, uint8.
        config: The options.
        manifest: Of the data set that `x` is from.
        generator: Source of the stochastic draws, on the device of `x`.

    Returns:
        Levels in [0, num_levels_of(config, manifest) - 1], the shape of `x`, uint8.

    Raises:
        ConfigError: The options do not fit the data set.
        ValueError: `x` is not uint8, or a draw is asked for without a generator.
    """
    if x.dtype != torch.uint8:
        raise ValueError(f"x must be uint8, got {x.dtype}")
    num_levels, prepared = num_levels_of(config, manifest), manifest.num_levels
    if num_levels == prepared or config.binarization == "fixed":
        return x
    if config.binarization == "threshold":
        return (x >= (prepared + 1) // 2).to(torch.uint8)  # x >= K/2 in integers
    if config.binarization == "stochastic":
        if generator is None:
            raise ValueError("generator must be given for a stochastic binarization, got None")
        return _bernoulli(x, prepared, generator)
    return (x.to(torch.int32) * num_levels).div_(prepared, rounding_mode="floor").to(torch.uint8)


def draw_shifts(num_images: int, generator: torch.Generator) -> Tensor:
    """Draw how far images move down and right, (N, 2), int64, each -1, 0 or 1 with equal probability."""
    return torch.randint(-1, 2, (num_images, 2), generator=generator)


def shifted(x: Tensor, shifts: Tensor) -> Tensor:
    """Move images by whole pixels; what is left free repeats the border.

    Args:
        x: Levels, (N, C, H, W).
        shifts: How far each image moves down and right, (N, 2), int64.
    """
    height, width = x.shape[2:]
    rows = (torch.arange(height) - shifts[:, :1]).clamp(
        0, height - 1
    )  # (N, H): where each comes from
    columns = (torch.arange(width) - shifts[:, 1:]).clamp(0, width - 1)  # (N, W)
    moved = x.gather(2, rows[:, None, :, None].expand(x.shape))
    return moved.gather(3, columns[:, None, None, :].expand(x.shape))


def fix_levels(split: Split, config: DataConfig, manifest: Manifest, *, split_name: str) -> Split:
    """Apply every option that does not change by epoch to a whole split.

    A `fixed` binarization is drawn for all images before `max_train_images` or `max_eval_images` cuts the
    split, so that an image looks the same however many are used.

    Args:
        split: A whole split, as `read_split` gives it.
        config: The options.
        manifest: Of the data set that the split is from.
        split_name: `train`, `val` or `test`; each has its own stream of draws.

    Returns:
        The split that is trained or evaluated on; with `binarization: stochastic` still at its
        prepared levels, for `to_levels` to draw batch by batch.

    Raises:
        ConfigError: The options do not fit the data set.
    """
    images = split.images
    limit = config.max_train_images if split_name == "train" else config.max_eval_images
    is_binary = num_levels_of(config, manifest) == manifest.num_levels == 2
    if config.binarization == "fixed" and not is_binary:
        seed = _seed_of(f"{config.binarization_seed}/{split_name}")
        images = _bernoulli(images, manifest.num_levels, torch.Generator().manual_seed(seed))
    images = images[:limit]
    if config.binarization != "stochastic":
        images = to_levels(images, config, manifest)
    labels = None if split.class_labels is None else split.class_labels[:limit]
    return Split(images=images, class_labels=labels)


def _bernoulli(x: Tensor, num_levels: int, generator: torch.Generator) -> Tensor:
    # One of K-1 equally likely integers is below x with probability exactly x / (K-1).
    draws = torch.empty_like(x).random_(0, num_levels - 1, generator=generator)
    return (draws < x).to(torch.uint8)


def _seed_of(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1  # fits int64
