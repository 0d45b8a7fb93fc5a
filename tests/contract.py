"""What the contract tests run over: every registered model, with each of its options flipped in turn."""

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import torch
from pydantic.fields import FieldInfo

from raypixel.config import ConfigProblems
from raypixel.models import (
    ModelConfig,
    PixelModel,
    build_model,
    model_classes,
    validate_model_config,
)

TINY = {"hidden_size": 6, "num_layers": 2}


def variants() -> Iterator[tuple[str, ModelConfig]]:
    """Yield (test id, config): each kind with tiny sizes, then with one option changed at a time."""
    for kind, model_class in model_classes().items():
        tiny = tiny_options(kind)
        yield kind, validate_model_config(tiny)
        for name, field in model_class.Config.model_fields.items():
            for label, value in other_values(name, field):
                try:
                    config = validate_model_config({**tiny, name: value})
                except ConfigProblems:  # a kind that cannot stand there
                    continue
                yield f"{kind}-{name}={label}", config


def tiny_options(kind: str) -> dict[str, Any]:
    """Return the smallest options of a kind; models inside a model are tiny too."""
    options: dict[str, Any] = {"kind": kind, **TINY}
    for name, field in model_classes()[kind].Config.model_fields.items():
        if name == "output_size":
            options[name] = 8
        elif field.annotation is ModelConfig:
            options[name] = tiny_options(field.get_default(call_default_factory=True).kind)
    return options


def nested_options(kind: str) -> dict[str, Any]:
    """Return the smallest options of a model inside a model, which must share the other's likelihood."""
    options = tiny_options(kind)
    if "likelihood" in model_classes()[kind].Config.model_fields:
        options["likelihood"] = "softmax"
    return options


def other_values(name: str, field: FieldInfo) -> list[tuple[str, Any]]:
    """Return (label, value) of an option's values that are not its default, where they can be listed."""
    default = field.get_default(call_default_factory=True)
    if name == "dropout":
        return [("0.5", 0.5)]
    if isinstance(default, bool):
        return [(str(not default), not default)]
    if get_origin(field.annotation) is Literal and name != "kind":
        return [(str(value), value) for value in get_args(field.annotation) if value != default]
    if field.annotation is ModelConfig:
        return [(kind, nested_options(kind)) for kind in model_classes() if kind != default.kind]
    return []


VARIANTS = dict(variants())


def random_model(
    config: ModelConfig,
    *,
    image_shape: tuple[int, int, int],
    num_levels: int,
    num_classes: int = 3,
    seed: int = 0,
) -> PixelModel:
    """Build a model in float64 whose every parameter is random and far from zero, the last layer too."""
    torch.manual_seed(seed)
    model = build_model(
        config, image_shape=image_shape, num_levels=num_levels, num_classes=num_classes
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = max(1, parameter[0].numel()) if parameter.dim() > 1 else 4
            parameter.normal_(0, 1.5 / fan_in**0.5)
    return model.eval()


def labels_for(model: PixelModel, num_images: int) -> torch.Tensor | None:
    """Return class labels 0, 1, 2, 0, .. for a class-conditional model, None for others."""
    num_classes = model.num_classes
    return torch.arange(num_images) % num_classes if num_classes else None
