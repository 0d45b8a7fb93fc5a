"""A trained model to use from Python: `raypixel.load(checkpoint)`."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raypixel.checkpoint import Checkpoint
from raypixel.errors import ConfigError, RaypixelError
from raypixel.evaluation import choose_device, nats_map
from raypixel.grids import image_grid, save_image
from raypixel.models import PixelModel
from raypixel.runs import find_checkpoint
from raypixel.sampling import CachedSampler, Image, Sampler, image_seeds, sample
from raypixel.storage import Location

NUM_SAMPLES = 16
LONGEST_SAMPLING_SECONDS = 60.0


def load(checkpoint: str | Location, *, device: str = "auto") -> "Model":
    """Load a trained model.

    Args:
        checkpoint: A checkpoint's folder, or a run's folder (its best checkpoint is used), also under `s3://`; or `zoo:NAME`.
        device: "auto", "cpu" or "cuda".

    Raises:
        CheckpointError: There is none, or it is damaged.
    """
    return Model(find_checkpoint(checkpoint), device=device)


class Model:
    """A trained model: draw, complete and score images of levels in [0, num_levels - 1].

    Attributes:
        checkpoint: What was loaded.
        network: The `torch.nn.Module`.
        image_shape: (C, H, W).
        num_levels: Levels K of a sub-pixel.
        num_classes: Classes, 0 for an unconditional model.
    """

    def __init__(self, checkpoint: Checkpoint, *, device: str = "auto") -> None:
        self.checkpoint = checkpoint
        self.network: PixelModel = checkpoint.load_model(choose_device(device))
        self.image_shape = self.network.image_shape
        self.num_levels = self.network.num_levels
        self.num_classes = self.network.num_classes

    def sample(
        self,
        n: int = 1,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        class_label: int | None = None,
        batch_size: int = 64,
        sampler: Sampler = "cached",
        progress: Callable[[int], None] | None = None,
        watch: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """Draw n images, (n, C, H, W), uint8; image k depends on (seed, k) only.

        Args:
            n: How many.
            seed: Of the request.
            temperature: Divides the logits.
            class_label: Class of all images, for a class-conditional model; by default 0, 1, 2, ... in turn.
            batch_size: Images in memory at a time.
            sampler: "cached" or "oracle".
            progress: Called with sub-pixels written in each image of a batch.
            watch: Called with the number of a batch's first image and its levels so far, after each row.

        Raises:
            ConfigError: The class is not one of the model's.
        """
        return draw(
            self.network,
            n,
            seed=seed,
            temperature=temperature,
            class_label=class_label,
            batch_size=batch_size,
            sampler=sampler,
            progress=progress,
            watch=watch,
        )

    def complete(
        self,
        x: Any,
        observed: Any,
        *,
        n: int = 1,
        seed: int = 0,
        temperature: float = 1.0,
        class_label: int | None = None,
        class_labels: Tensor | None = None,
        batch_size: int = 64,
        sampler: Sampler = "cached",
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Draw n completions of each image; observed sub-pixels are kept exactly.

        Every other sub-pixel is drawn given what precedes it in raster order, be it observed or drawn. Observed ones that
        follow it do not count: the model cannot look ahead. For `multiscale` the order is that of its `generation_order`.

        Args:
            x: Levels, (N, C, H, W) or (C, H, W).
            observed: Which are observed, bool, (H, W) or anything that broadcasts to the shape of x.
            n: Completions of each image.
            seed: Completion k of any image depends on the image and (seed, k) only.
            temperature: Divides the logits.
            class_label: Class of all images, for a class-conditional model.
            class_labels: Class of each image, (N,); goes before `class_label`.
            batch_size: Images in memory at a time.
            sampler: "cached" or "oracle".
            progress: Called with sub-pixels written in each image of a batch.

        Returns:
            Levels, (N, n, C, H, W), uint8.

        Raises:
            ConfigError: A shape or a level does not fit the model.
        """
        images = self._images(x)
        known = torch.as_tensor(observed)
        try:
            known = known.bool().expand(images.shape)
        except RuntimeError:
            got = tuple(known.shape)
            raise ConfigError(
                f"observed must broadcast to {tuple(images.shape)}, got {got}"
            ) from None
        labels = self._labels(len(images), class_label, class_labels)
        drawn = sample(
            self.network,
            image_seeds(seed, n) * len(images),
            class_labels=None if labels is None else labels.repeat_interleave(n),
            temperature=temperature,
            x=images.repeat_interleave(n, dim=0),
            observed=known.repeat_interleave(n, dim=0),
            batch_size=batch_size,
            sampler=sampler,
            progress=progress,
        )
        return drawn.unflatten(0, (len(images), n))

    def nll_nats(
        self, x: Any, *, class_label: int | None = None, class_labels: Tensor | None = None
    ) -> Tensor:
        """Return the exact negative log-likelihood of each image in nats, (N,), float64."""
        nats = self.surprise(x, class_label=class_label, class_labels=class_labels)
        return nats.flatten(1).sum(1, dtype=torch.float64)

    def surprise(
        self,
        x: Any,
        *,
        class_label: int | None = None,
        class_labels: Tensor | None = None,
        batch_size: int = 64,
    ) -> Tensor:
        """Return the nats of each sub-pixel given those before it, (N, C, H, W)."""
        images = self._images(x)
        labels = self._labels(len(images), class_label, class_labels)
        parts = []
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            own = None if labels is None else labels[part]
            parts.append(nats_map(self.network, images[part], own))
        return torch.cat(parts)

    def _images(self, x: Any) -> Tensor:
        images = torch.as_tensor(x)
        if images.dim() == 3:
            images = images[None]
        if images.shape[1:] != self.image_shape or not len(images):
            got = tuple(images.shape)
            raise ConfigError(f"x must be images of shape {self.image_shape}, got {got}")
        if images.is_floating_point() or not (
            0 <= int(images.min()) <= int(images.max()) < self.num_levels
        ):
            found = f"{images.dtype} in [{images.min()}, {images.max()}]"
            raise ConfigError(f"x must hold integers in [0, {self.num_levels - 1}], got {found}")
        return images.to(torch.uint8)

    def _labels(
        self, num_images: int, class_label: int | None, class_labels: Tensor | None
    ) -> Tensor | None:
        if not self.num_classes or class_labels is None or class_label is not None:
            if self.num_classes and class_label is None:
                raise ConfigError(
                    f"a class must be given, one of 0 to {self.num_classes - 1}, got none"
                )
            return class_labels_for(self.network, num_images, class_label)
        return class_labels


def draw(
    model: PixelModel, num_images: int, *, seed: int, class_label: int | None = None, **how: Any
) -> Tensor:
    """Draw images, (N, C, H, W) uint8; image k depends on (seed, k) only.

    Args:
        model: A model on its device.
        num_images: How many.
        seed: Seed of the request.
        class_label: Class of all images, for a class-conditional model; by default 0, 1, 2, ... in turn.
        how: Further arguments of `raypixel.sampling.sample`.

    Raises:
        ConfigError: The class is not one of the model's.
    """
    labels = class_labels_for(model, num_images, class_label)
    return sample(model, image_seeds(seed, num_images), class_labels=labels, **how)


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


def draw_picture(checkpoint: Checkpoint, path: Path) -> str | None:
    """Draw a picture of samples if that is quick.

    Returns:
        None, or a line that says why there is no picture: a finished training does not fail for want of one.
    """
    model = checkpoint.load_model(choose_device("auto"))
    seconds = estimate_seconds(model, NUM_SAMPLES)
    if seconds > LONGEST_SAMPLING_SECONDS:
        return f"no {path.name}: {NUM_SAMPLES} samples would take about {seconds / 60:.0f} minutes"
    x = draw(model, NUM_SAMPLES, seed=0)
    try:
        save_image(image_grid(x, num_levels=checkpoint.info.num_levels), path)
    except RaypixelError as error:
        return str(error)
    return None
