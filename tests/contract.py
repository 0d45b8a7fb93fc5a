"""What the contract tests run over: every registered model, with each of its options flipped in turn."""

from collections.abc import Iterator
from typing import Literal, get_args, get_origin

import torch
from torch import nn

from raypixel.models import ModelConfig, build_model, model_classes

TINY = {"hidden_size": 6, "num_layers": 2}


def variants() -> Iterator[tuple[str, ModelConfig]]:
    """Yield (test id, config): each kind with tiny sizes, then with one option changed at a time."""
    for kind, model_class in model_classes().items():
        config_class = model_class.Config
        fields = config_class.model_fields
        tiny = {**getattr(model_class, "tiny_options", {}), **TINY}
        if "output_size" in fields:
            tiny["output_size"] = 8
        yield kind, config_class(**tiny)
        for name, field in fields.items():
            default = field.default
            if isinstance(default, bool):
                others = [not default]
            elif get_origin(field.annotation) is Literal and name != "kind":
                others = [value for value in get_args(field.annotation) if value != default]
            else:
                continue
            for other in others:
                yield f"{kind}-{name}={other}", config_class(**tiny, **{name: other})


VARIANTS = dict(variants())


def random_model(
    config: ModelConfig,
    *,
    image_shape: tuple[int, int, int],
    num_levels: int,
    num_classes: int = 3,
    seed: int = 0,
) -> nn.Module:
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


def labels_for(model: nn.Module, num_images: int) -> torch.Tensor | None:
    """Return class labels 0, 1, 2, 0, .. for a class-conditional model, None for others."""
    num_classes = model.num_classes
    return torch.arange(num_images) % num_classes if num_classes else None
