"""The receptive field of one pixel: earlier pixels with a path to its parameters, the blind spot, and leaks.

Paths are gradients in float64 that are not exactly zero. They are looked for with random inputs and, in untrained models, random
parameters: a path hides from them with probability zero.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from raypixel.figures.canvas import (
    BLIND,
    FUTURE,
    INK,
    LEAK,
    SEEN,
    SELF,
    add_legend,
    diagram_figure,
    draw_pixels,
    paint,
)
from raypixel.models import ModelConfig, PixelModel, build_model

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NUM_LEVELS = 4  # of models built for a diagram: what depends on what is the same for any number
_NUM_CLASSES = 10
_WIDTHS = ("hidden_size", "output_size", "condition_size")
_NARROW = 12
_DECADES = 6  # shown of a trained model's gradients


@dataclass(frozen=True)
class Field:
    """What one pixel's parameters depend on.

    Attributes:
        title: Name of the model, for a person.
        position: (row, column) of the pixel.
        gradient: Mean absolute gradient, (H, W).
        earlier: Pixels generated before, (H, W), bool.
        has_magnitude: Whether the size of a gradient says something: the model is trained.
    """

    title: str
    position: tuple[int, int]
    gradient: Tensor
    earlier: Tensor
    has_magnitude: bool = False

    @property
    def others(self) -> Tensor:
        """All pixels but the pixel itself, (H, W), bool."""
        mask = torch.ones_like(self.earlier)
        mask[self.position] = False
        return mask

    @property
    def seen(self) -> Tensor:
        """Earlier pixels with a path, (H, W), bool."""
        return (self.gradient != 0) & self.earlier

    @property
    def blind(self) -> Tensor:
        """Earlier pixels without one, (H, W), bool."""
        return (self.gradient == 0) & self.earlier

    @property
    def leaks(self) -> Tensor:
        """Later pixels with one, which a correct model does not have, (H, W), bool."""
        return (self.gradient != 0) & ~self.earlier & self.others


def field_of_model(model: PixelModel, row: int, column: int, *, title: str) -> Field:
    """Compute the receptive field of a trained model, whose float type becomes float64."""
    model = model.double().eval()
    gradient = mean_gradient(model, row, column, num_inputs=16)
    earlier = earlier_pixels(model, row, column)
    return Field(title, (row, column), gradient, earlier, has_magnitude=True)


def field_of_config(
    config: ModelConfig, image_shape: tuple[int, int, int], *, row: int, column: int, title: str
) -> Field:
    """Compute the receptive field of an architecture; see `random_mean_gradient`."""
    gradient = random_mean_gradient(config, image_shape, row=row, column=column)
    earlier = earlier_pixels(build_diagram_model(config, image_shape), row, column)
    return Field(title, (row, column), gradient, earlier)


def earlier_pixels(model: PixelModel, row: int, column: int) -> Tensor:
    """Return which pixels the model generates before (row, column), (H, W), bool; in raster order unless it says otherwise."""
    _, height, width = model.image_shape
    order = model.generation_order()
    earlier = torch.zeros(height, width, dtype=torch.bool)
    for i, j in order[: order.index((row, column))]:
        earlier[i, j] = True
    return earlier


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
    gradient = weighted_gradient(model(x, labels)[..., row, column], x, generator)
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


def draw_receptive_fields(fields: Sequence[Field]) -> "Figure":
    """Draw fields side by side, at most six in a row: 2.6 x 2.9 inches each and 0.5 for the legend, a single one 4.4 x 4.9."""
    columns = min(6, len(fields))
    rows = math.ceil(len(fields) / columns)
    is_single = len(fields) == 1
    size = (4.4, 4.9) if is_single else (2.6 * columns, 2.9 * rows + 0.5)
    figure = diagram_figure(*size)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat[len(fields) :]:
        ax.set_axis_off()
    for ax, field in zip(axes.flat, fields, strict=False):
        _draw_field(figure, ax, field)
    has_magnitude = any(field.has_magnitude for field in fields)
    entries = {"the pixel": SELF, "seen, dark: strongly" if has_magnitude else "seen": SEEN}
    if any(field.blind.any() for field in fields):
        entries["blind spot or out of reach"] = BLIND
    entries["future"] = FUTURE
    if any(field.leaks.any() for field in fields):
        entries["LEAK: future pixel seen"] = LEAK
    add_legend(figure, entries, columns=2 if is_single and len(entries) > 3 else len(entries))
    return figure


def _draw_field(figure: "Figure", ax: "Axes", field: Field) -> None:
    colors = paint(
        field.earlier.shape, (field.seen, SEEN), (field.blind, BLIND), (field.leaks, LEAK)
    )
    if field.has_magnitude and field.seen.any():
        colors[field.seen.numpy()] = _magnitude_colors(figure, ax, field)
    draw_pixels(ax, colors, field.position)
    num_seen, num_earlier = int(field.seen.sum()), int(field.earlier.sum())
    ax.set_title(field.title, fontsize=11, fontweight="bold", color=INK)
    ax.set_xlabel(f"sees {num_seen} of {num_earlier} earlier pixels", fontsize=9, color=INK)


def _magnitude_colors(figure: "Figure", ax: "Axes", field: Field) -> np.ndarray:
    """Map the gradients of seen pixels to colors by their logarithm, and add the scale."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    values = field.gradient[field.seen].numpy()
    top = float(values.max())
    norm = LogNorm(top * max(10.0**-_DECADES, float(values.min()) / top / 1.001), top, clip=True)
    blues = LinearSegmentedColormap.from_list("seen", colormaps["Blues"](np.linspace(0.2, 1, 256)))
    scale = figure.colorbar(ScalarMappable(norm, blues), ax=ax, shrink=0.8, pad=0.02)
    scale.set_label("mean absolute gradient", fontsize=9, color=INK)
    scale.ax.tick_params(labelsize=8)
    return np.asarray(blues(norm(values)))[:, :3]
