"""The size of a model before memory is taken for it: what would be too large is refused while it is built."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from raypixel.config import flatten
from raypixel.errors import ConfigError
from raypixel.models.base import ModelConfig
from raypixel.models.registry import build_model

MOST_TENSORS = 4_000
"""More take minutes to build; no architecture of use comes near."""
MOST_OF_AN_OPTION = 1 << 16
"""Layers, features of a layer, sizes of kernels: tables of this length are made for masks before there are weights to count."""


def num_parameters(
    config: ModelConfig,
    *,
    image_shape: tuple[int, int, int],
    num_levels: int,
    num_classes: int = 0,
    most: int | None = None,
) -> int:
    """Return how many parameters a model has, without memory for its weights.

    Args:
        config: The architecture and its options.
        image_shape: (C, H, W).
        num_levels: Intensity levels K of a sub-pixel.
        num_classes: Classes of the data set.
        most: How many it may have.

    Raises:
        ConfigError: The options do not fit the images, or it has more parameters.
    """
    facts: dict[str, Any] = {
        "image_shape": image_shape,
        "num_levels": num_levels,
        "num_classes": num_classes,
    }
    for name, value in flatten(config.model_dump()).items():
        if isinstance(value, int) and value > MOST_OF_AN_OPTION:
            raise ConfigError(f"model: {name} must be at most {MOST_OF_AN_OPTION:,}, got {value:,}")
    with at_most(most):
        try:
            with torch.device("meta"):
                model = build_model(config, **facts)
        except (
            RuntimeError
        ):  # an architecture from outside may read values, of which there are none
            model = build_model(config, **facts)
    return sum(parameter.numel() for parameter in model.parameters())


@contextmanager
def at_most(num_elements: int | None) -> Iterator[None]:
    """Stop building a model, in this thread, whose parameters are more."""
    thread, num_tensors, total = threading.get_ident(), 0, 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal num_tensors, total
        del module, name
        if threading.get_ident() != thread:
            return
        num_tensors, total = num_tensors + 1, total + parameter.numel()
        if num_tensors > MOST_TENSORS:
            raise ConfigError(f"model: must have at most {MOST_TENSORS:,} tensors, got more")
        if num_elements is not None and total > num_elements:
            raise ConfigError(f"model: must have at most {num_elements:,} parameters, got more")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()
