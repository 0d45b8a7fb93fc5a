"""The registry of architectures: one file per model, found by name.

A new architecture is one new file beside this one: a `torch.nn.Module` under `@register("name")` with a nested
frozen `Config`, made by `(config, image_shape=, num_levels=, num_classes=)`, whose `forward(x, class_labels=None)`
maps levels (N, C, H, W) to the parameters (N, P, C, H, W) of its `likelihood`. The contract tests run over the
registry, so the new file is tested without an edit: they flip each option of `Config` in turn.
"""

import itertools
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeVar, cast

from torch import Tensor, nn

from raypixel.config import ConfigProblems, Frozen, validate
from raypixel.errors import ConfigError, did_you_mean
from raypixel.nn.likelihoods import PixelLikelihood
from raypixel.nn.plan import Plan, Stage


class ModelConfig(Frozen):
    """Options that every architecture has; each model's own `Config` adds to them."""

    kind: str
    """Name of the architecture in the registry."""
    hidden_size: int
    """Features h of a layer; the residual maps have 2h."""
    num_layers: int
    """Layers (residual blocks) between the first layer and the output."""

    @property
    def is_class_conditional(self) -> bool:
        """Whether the model is given class labels."""
        return False


class PixelModel(Protocol):
    """What every registered model offers, beside being an `nn.Module`.

    Two things are optional. A model whose pixels are not generated in raster order has a method
    `generation_order() -> list[tuple[int, int]]`; see the function of that name. A model that can be the conditional half of
    `multiscale` has `accepts_condition = True`, the keyword `condition_channels` in its constructor and `condition`
    in `forward`, and a method `condition_field(row, column)`: where its parameters see the conditioning maps.
    """

    Config: ClassVar[type[ModelConfig]]
    image_shape: tuple[int, int, int]
    num_levels: int
    num_classes: int
    likelihood: PixelLikelihood

    def __call__(self, x: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Return parameters (N, P, C, H, W) for levels (N, C, H, W)."""
        ...

    def plan(self) -> Plan:
        """Return what sampling computes at each position (`raypixel.nn.plan`)."""
        ...

    def receptive_field(self, row: int, column: int) -> Tensor:
        """Return which pixels generated before (row, column) its parameters depend on, (H, W), bool."""
        ...


def generation_order(model: nn.Module) -> list[tuple[int, int]]:
    """Return every (row, column) once, in the order in which the model factorizes the image.

    The parameters of a pixel depend on pixels before it only. Raster order, unless the model says otherwise.
    """
    own_order = getattr(model, "generation_order", None)
    if own_order is not None:
        return cast(list[tuple[int, int]], own_order())
    _, height, width = cast(PixelModel, model).image_shape
    return list(itertools.product(range(height), range(width)))


def sampling_stages(model: nn.Module) -> list[Stage]:
    """Return the raster scans by which an image is sampled: one, unless the model says otherwise."""
    own_stages = getattr(model, "stages", None)
    if own_stages is not None:
        return cast(list[Stage], own_stages())
    pixel_model = cast(PixelModel, model)
    return [Stage(pixel_model.plan(), 1, pixel_model.image_shape[1])]


ModelT = TypeVar("ModelT", bound=type)
_MODELS: dict[str, type] = {}


def register(kind: str) -> Callable[[ModelT], ModelT]:
    """Enter a model class under a name, the default of its `Config.kind`."""

    def enter(model_class: ModelT) -> ModelT:
        assert kind not in _MODELS, f"two models are registered as {kind!r}"
        assert model_class.Config.model_fields["kind"].default == kind  # type: ignore[attr-defined]
        _MODELS[kind] = model_class
        return model_class

    return enter


def model_classes() -> dict[str, Any]:
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
    return cast(ModelConfig, validate(_MODELS[kind].Config, mapping))  # type: ignore[attr-defined]


def build_model(
    config: ModelConfig, *, image_shape: tuple[int, int, int], num_levels: int, num_classes: int = 0
) -> nn.Module:
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
        return cast(
            nn.Module,
            _MODELS[config.kind](
                config,
                image_shape=image_shape,
                num_levels=num_levels,
                num_classes=num_classes if config.is_class_conditional else 0,
            ),
        )
    except ValueError as error:
        raise ConfigError(f"model: {error}") from None
