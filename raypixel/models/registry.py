"""The registry of architectures: one file per model, found by name.

A new architecture is one new file beside this one: a `PixelModel` under `@register("name")` with a nested frozen
`Config`. The contract tests run over the registry, so the new file is tested without an edit: they flip each option
of `Config` in turn.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from raypixel.config import ConfigProblems, validate
from raypixel.errors import ConfigError, did_you_mean
from raypixel.models.base import ModelConfig, PixelModel

ModelT = TypeVar("ModelT", bound=type[PixelModel])
_MODELS: dict[str, type[PixelModel]] = {}


def register(kind: str) -> Callable[[ModelT], ModelT]:
    """Enter a model class under a name, the default of its `Config.kind`."""

    def enter(model_class: ModelT) -> ModelT:
        assert kind not in _MODELS, f"two models are registered as {kind!r}"
        assert model_class.Config.model_fields["kind"].default == kind
        _MODELS[kind] = model_class
        return model_class

    return enter


def model_classes() -> dict[str, type[PixelModel]]:
    """Return every registered model class under its name, sorted."""
    return dict(sorted(_MODELS.items()))


def validate_model_config(mapping: Any) -> ModelConfig:
    """Choose the `Config` class by `kind` and build it; for use in another config's validator.

    Raises:
        ConfigProblems: The kind is missing or unknown, or options of that kind are wrong.
        ValueError: This is no mapping.
    """
    if isinstance(mapping, ModelConfig):
        return mapping
    if not isinstance(mapping, dict):
        raise ValueError(f"must be a mapping with a `kind`, got {mapping!r}")
    kind = mapping.get("kind")
    if not isinstance(kind, str) or kind not in _MODELS:
        known = ", ".join(sorted(_MODELS))
        text = f"must be one of {known}, got {kind!r}{did_you_mean(str(kind), _MODELS)}"
        raise ConfigProblems([(("kind",), text)])
    return validate(_MODELS[kind].Config, mapping)


def build_model(
    config: ModelConfig, *, image_shape: tuple[int, int, int], num_levels: int, num_classes: int = 0
) -> PixelModel:
    """Build an untrained model; draw its weights from torch's current random state.

    Args:
        config: The architecture and its options.
        image_shape: (C, H, W).
        num_levels: Intensity levels K of a sub-pixel.
        num_classes: Classes of the data set; used only by a class-conditional model.

    Raises:
        ConfigError: The options do not fit the images, for example fewer features than colours.
    """
    try:
        return _MODELS[config.kind](
            config,
            image_shape=image_shape,
            num_levels=num_levels,
            num_classes=num_classes if config.is_class_conditional else 0,
        )
    except ValueError as error:
        raise ConfigError(f"model: {error}") from None
