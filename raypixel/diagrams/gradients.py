"""How strongly a model's output depends on every pixel, measured by gradients in float64.

Paths are looked for with random inputs and, in untrained models, random parameters: a path hides from them with probability zero.
"""

from typing import Any

import torch
from torch import Tensor

from raypixel.models import ModelConfig, PixelModel, build_model

_NUM_LEVELS = 4  # of models built for a diagram: what depends on what is the same for any number
_NUM_CLASSES = 10
_WIDTHS = ("hidden_size", "output_size", "condition_size")
_NARROW = 12


def mean_gradient(
    model: PixelModel, row: int, column: int, *, num_inputs: int = 8, seed: int = 0
) -> Tensor:
    """Measure how strongly the parameters at a pixel depend on every pixel.

    The parameters of the pixel, weighted at random, are differentiated with respect to the image, for several random images.

    Args:
        model: A registered model in float64; in float32 a long recurrence underflows to a zero that is not one.
        row: Of the pixel.
        column: Of the pixel.
        num_inputs: Random images.
        seed: Of the images and the weights.

    Returns:
        Mean absolute gradient, summed over the colors of a pixel, (H, W), float64. Zero means no path at all.
    """
    generator = torch.Generator().manual_seed(seed)
    x, labels = random_inputs(model, num_inputs, generator)
    x = x.double().requires_grad_()  # levels are integers, but every model scales them first
    gradient = weighted_gradient(model(x, labels)[:, :, :, row, column], x, generator)
    return gradient.abs().mean(0).sum(0)


def random_mean_gradient(
    config: ModelConfig,
    image_shape: tuple[int, int, int],
    *,
    row: int,
    column: int,
    num_models: int = 4,
) -> Tensor:
    """Average `mean_gradient` over untrained models whose every parameter is random.

    A freshly built model will not do: its last layer is zero and hides everything. One random model will not do either:
    a dead unit may hide a path. Widths that were not asked for are reduced, since no path depends on them.

    Returns:
        Mean absolute gradient, (H, W), float64.
    """
    model = build_diagram_model(config, image_shape)
    total = torch.zeros(image_shape[1:], dtype=torch.float64)
    for seed in range(num_models):
        redraw(model, seed=seed)
        total += mean_gradient(model, row, column, seed=seed) / num_models
    return total


def build_diagram_model(config: ModelConfig, image_shape: tuple[int, int, int]) -> PixelModel:
    """Build a narrow untrained model of the same connections, in float64 and evaluation mode."""
    model = build_model(
        _narrow(config),
        image_shape=image_shape,
        num_levels=_NUM_LEVELS,
        num_classes=_NUM_CLASSES,
    )
    return model.double().eval()


def redraw(model: PixelModel, *, seed: int) -> None:
    """Make every parameter random and far from zero, the last layer and the initial states too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = max(1, parameter[0].numel()) if parameter.dim() > 1 else 4
            parameter.normal_(0, 1.5 / fan_in**0.5, generator=generator)


def random_inputs(
    model: PixelModel, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Draw images, levels (N, C, H, W), and class labels (N,) for a model that has classes."""
    shape = (count, *model.image_shape)
    x = torch.randint(0, model.num_levels, shape, generator=generator)
    if not model.num_classes:
        return x, None
    return x, torch.randint(0, model.num_classes, (count,), generator=generator)


def weighted_gradient(output: Tensor, x: Tensor, generator: torch.Generator) -> Tensor:
    """Differentiate an output, summed with random weights, with respect to `x`; the graph is kept for other outputs."""
    weights = torch.randn(output.shape, generator=generator, dtype=output.dtype)
    (gradient,) = torch.autograd.grad((output * weights).sum(), x, retain_graph=True)
    return gradient


def _narrow(config: ModelConfig) -> ModelConfig:
    changes: dict[str, Any] = {}
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, ModelConfig):
            changes[name] = _narrow(value)
        elif name in _WIDTHS and name not in config.model_fields_set:
            changes[name] = min(value, _NARROW)
    return config.model_copy(update=changes)
