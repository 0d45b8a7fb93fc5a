"""Architectures, one file each; importing this package finds and registers them all."""

import importlib
import pkgutil

from raypixel.models.base import ModelConfig, PixelModel
from raypixel.models.registry import (
    build_model,
    model_classes,
    register,
    validate_model_config,
)

__all__ = [
    "ModelConfig",
    "PixelModel",
    "build_model",
    "model_classes",
    "register",
    "validate_model_config",
]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
