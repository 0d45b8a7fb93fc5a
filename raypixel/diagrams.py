"""Diagrams of a model, computed from the model itself: what an output depends on, its masks, its distributions.

Nothing is drawn from a formula. A receptive field is where a gradient in float64 is not exactly zero, a mask is
the buffer of a layer, a distribution is what the likelihood gives for every level. So a diagram also shows a mistake: a
later pixel with a gradient is marked as a leak.

Reference: van den Oord et al. 2016a, fig. 1, 2 and 4; 2016b, fig. 1 (blind spot).
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from raypixel.errors import RaypixelError
from raypixel.models.registry import ModelConfig, PixelModel, build_model, generation_order

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS_PER_INCH = 150
_NUM_LEVELS = 4  # of models built for a diagram: what depends on what is the same for any number
_NUM_CLASSES = 10
_WIDTHS = ("hidden_size", "output_size", "condition_size")
_NARROW = 12
_DECADES = 6  # shown of a trained model's gradients

# Okabe and Ito's colours, which every kind of colour vision tells apart
_SEEN, _SEEN_BEFORE, _BLIND, _LEAK = "#0072B2", "#9CCBEA", "#E69F00", "#D55E00"
_FUTURE, _UNSEEN, _SELF, _INK = "#DDDDDD", "#FFFFFF", "#000000", "#333333"
_CHANNEL_COLORS = ("#D55E00", "#009E73", "#0072B2")


# --- what an output depends on ---


def mean_gradient(
    model: nn.Module, row: int, column: int, *, num_inputs: int = 8, seed: int = 0
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
        Mean absolute gradient, summed over the colours of a pixel, (H, W), float64. Zero means no path at all.
    """
    pixel_model = cast(PixelModel, model)
    generator = torch.Generator().manual_seed(seed)
    shape = (num_inputs, *pixel_model.image_shape)
    x = torch.randint(0, pixel_model.num_levels, shape, generator=generator).double()
    x.requires_grad_()  # levels are integers, but every model scales them first
    labels = _random_labels(pixel_model, num_inputs, generator)
    output = model(x, labels)[:, :, :, row, column]
    weights = torch.randn(output.shape, generator=generator, dtype=output.dtype)
    (gradient,) = torch.autograd.grad((output * weights).sum(), x)
    return gradient.abs().mean(0).sum(0).detach()


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


def build_diagram_model(config: ModelConfig, image_shape: tuple[int, int, int]) -> nn.Module:
    """Build a narrow untrained model of the same connections, in float64 and evaluation mode."""
    model = build_model(
        _narrow(config),
        image_shape=image_shape,
        num_levels=_NUM_LEVELS,
        num_classes=_NUM_CLASSES,
    )
    return model.double().eval()


def redraw(model: nn.Module, *, seed: int) -> None:
    """Make every parameter random and far from zero, the last layer and the initial states too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = max(1, parameter[0].numel()) if parameter.dim() > 1 else 4
            parameter.normal_(0, 1.5 / fan_in**0.5, generator=generator)


def earlier_pixels(model: nn.Module, row: int, column: int) -> Tensor:
    """Return which pixels the model generates before (row, column), (H, W), bool; in raster order unless it says otherwise."""
    _, height, width = cast(PixelModel, model).image_shape
    order = generation_order(model)
    earlier = torch.zeros(height, width, dtype=torch.bool)
    for i, j in order[: order.index((row, column))]:
        earlier[i, j] = True
    return earlier


def _narrow(config: ModelConfig) -> ModelConfig:
    changes: dict[str, Any] = {}
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, ModelConfig):
            changes[name] = _narrow(value)
        elif name in _WIDTHS and name not in config.model_fields_set:
            changes[name] = min(value, _NARROW)
    return config.model_copy(update=changes)


def _random_labels(model: PixelModel, count: int, generator: torch.Generator) -> Tensor | None:
    if not model.num_classes:
        return None
    return torch.randint(0, model.num_classes, (count,), generator=generator)


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


def field_of_model(model: nn.Module, row: int, column: int, *, title: str) -> Field:
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


def layer_connections(model: nn.Module, row: int, column: int) -> dict[str, Tensor]:
    """Compute what one recurrent layer connects: input-to-state, and state-to-state over all its steps.

    Args:
        model: A registered model in float64 with random parameters.
        row: Of a state.
        column: Of a state.

    Returns:
        For "input-to-state" and "state-to-state" which positions the state depends on, (H, W), bool, the first such layer of
        the model; empty for a model without recurrent layers.
    """
    layer = next((m for m in model.modules() if hasattr(m, "recurrence")), None)
    if layer is None or hasattr(model, "generation_order"):
        return {}  # what generates in an order of its own is made of other models, which have their own rows
    parts = {"input-to-state": layer.input_to_state, "state-to-state": layer.recurrence}
    calls: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def keep(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        calls[module] = (inputs[0], output)

    hooks = [cast(nn.Module, part).register_forward_hook(keep) for part in parts.values()]
    pixel_model = cast(PixelModel, model)
    generator = torch.Generator().manual_seed(0)
    shape = (4, *pixel_model.image_shape)
    x = torch.randint(0, pixel_model.num_levels, shape, generator=generator)
    try:
        model(x, _random_labels(pixel_model, len(x), generator))
    finally:
        for hook in hooks:
            hook.remove()
    connections = {}
    for name, part in parts.items():
        before, after = calls[cast(nn.Module, part)]
        here = after[:, :, row, column]
        weights = torch.randn(here.shape, generator=generator, dtype=here.dtype)
        (gradient,) = torch.autograd.grad((here * weights).sum(), before, retain_graph=True)
        connections[name] = (gradient != 0).any(0).any(0)
    return connections


# --- masks ---


@dataclass(frozen=True)
class LayerMask:
    """A mask that one or more layers have, with channels of the same connections taken together.

    Attributes:
        mask: Zeros and ones, (output groups, input groups, rows, columns); the last row is the current one.
        center: Column of the current pixel.
        layers: Names of the layers in the model.
    """

    mask: Tensor
    center: int
    layers: tuple[str, ...]

    @property
    def mask_type(self) -> Literal["A", "B"]:
        """ "A" where the current dimension is closed, "B" where it is open."""
        return "B" if bool(self.mask[:, :, -1, self.center].diagonal().all()) else "A"

    @property
    def kernel_size(self) -> tuple[int, int]:
        """Rows and columns of the whole kernel around the current pixel, with those that would all be zero and are not stored."""
        rows = self.mask.shape[2]
        return 2 * rows - 1 if rows == self.center + 1 else rows, 2 * self.center + 1


def layer_masks(model: nn.Module) -> list[LayerMask]:
    """Read the masks from the buffers of a model's layers, each different one once, in the order of the layers."""
    found: list[tuple[Tensor, int, list[str]]] = []
    for name, module in model.named_modules():
        mask = dict(module.named_buffers(recurse=False)).get("mask")
        if mask is None or mask.dim() != 4:
            continue
        grouped = _distinct(_distinct(mask, dim=0), dim=1)
        center = int(getattr(module, "side", mask.shape[3] // 2))
        for other, other_center, layers in found:
            if center == other_center and torch.equal(other, grouped):
                layers.append(name)
                break
        else:
            found.append((grouped, center, [name]))
    return [LayerMask(mask, center, tuple(layers)) for mask, center, layers in found]


def _distinct(mask: Tensor, *, dim: int) -> Tensor:
    """Keep the first of equal slices, in order."""
    slices: list[Tensor] = []
    for one in mask.unbind(dim):
        if not any(torch.equal(one, other) for other in slices):
            slices.append(one)
    return torch.stack(slices, dim)


# --- distributions ---


@torch.no_grad()
def level_probabilities(
    model: nn.Module,
    x: Tensor,
    position: tuple[int, int],
    *,
    class_label: int | None = None,
) -> Tensor:
    """Return the distribution of every sub-pixel of a pixel, given all earlier ones of an image.

    The likelihood is asked for every level in turn, so that this is right for softmax, sigmoid and any other.

    Args:
        model: A registered model.
        x: One image, levels in [0, K-1], (C, H, W).
        position: (row, column) of the pixel.
        class_label: Of the image, for a class-conditional model.

    Returns:
        Probabilities, (C, K), float64.
    """
    row, column = position
    pixel_model = cast(PixelModel, model)
    device = next(model.parameters()).device
    labels = None
    if pixel_model.num_classes:
        labels = torch.tensor([0 if class_label is None else class_label], device=device)
    params = model(x[None].to(device), labels)[:, :, :, row : row + 1, column : column + 1]
    levels = torch.arange(pixel_model.num_levels, device=device)
    params = params.double().expand(len(levels), -1, -1, -1, -1)  # (K, P, C, 1, 1)
    probabilities = []
    for channel in range(len(x)):
        every = x[:, row, column].long().to(device).repeat(len(levels), 1)  # (K, C)
        every[:, channel] = levels
        nats = pixel_model.likelihood.nll_map(params, every[:, :, None, None])
        probabilities.append(torch.exp(-nats[:, channel, 0, 0]))
    return torch.stack(probabilities).double().cpu()


@torch.no_grad()
def telling_positions(
    model: nn.Module, x: Tensor, *, count: int, class_label: int | None = None
) -> list[tuple[int, int]]:
    """Choose pixels of an image (C, H, W) from very to little surprising ones: a few quantiles of their nats."""
    pixel_model = cast(PixelModel, model)
    device = next(model.parameters()).device
    labels = None
    if pixel_model.num_classes:
        labels = torch.tensor([0 if class_label is None else class_label], device=device)
    x = x[None].to(device)
    nats = pixel_model.likelihood.nll_map(model(x, labels), x).sum(1)[0].cpu()  # (H, W)
    order = nats.flatten().argsort(descending=True).tolist()
    ranks = [int(len(order) * share) for share in (0.02, 0.1, 0.25, 0.4, 0.6, 0.8)[:count]]
    return sorted({divmod(order[rank], nats.shape[1]) for rank in ranks})


# --- pictures ---


def draw_receptive_fields(fields: Sequence[Field]) -> "Figure":
    """Draw fields side by side, at most six in a row: 2.6 x 2.9 inches each and 0.5 for the legend, a single one 4.4 x 4.9."""
    columns = min(6, len(fields))
    rows = math.ceil(len(fields) / columns)
    is_single = len(fields) == 1
    size = (4.4, 4.9) if is_single else (2.6 * columns, 2.9 * rows + 0.5)
    figure = _figure(*size)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat[len(fields) :]:
        ax.set_axis_off()
    for ax, field in zip(axes.flat, fields, strict=False):
        colors = _paint(field.earlier.shape, _FUTURE)
        colors[field.seen.numpy()] = _rgb(_SEEN)
        if field.has_magnitude and field.seen.any():
            colors[field.seen.numpy()] = _magnitude_colors(figure, ax, field)
        colors[field.blind.numpy()] = _rgb(_BLIND)
        colors[field.leaks.numpy()] = _rgb(_LEAK)
        _draw_pixels(ax, colors, field.position)
        num_seen, num_earlier = int(field.seen.sum()), int(field.earlier.sum())
        ax.set_title(field.title, fontsize=11, fontweight="bold", color=_INK)
        ax.set_xlabel(f"sees {num_seen} of {num_earlier} earlier pixels", fontsize=9, color=_INK)
    has_magnitude = any(field.has_magnitude for field in fields)
    seen = "seen, dark: strongly" if has_magnitude else "seen"
    entries = {"the pixel": _SELF, seen: _SEEN}
    if any(field.blind.any() for field in fields):
        entries["blind spot or out of reach"] = _BLIND
    entries["future"] = _FUTURE
    if any(field.leaks.any() for field in fields):
        entries["LEAK: future pixel seen"] = _LEAK
    _legend(figure, entries, columns=2 if is_single and len(entries) > 3 else len(entries))
    return figure


@dataclass(frozen=True)
class Growth:
    """How one architecture's receptive field grows.

    Attributes:
        title: Name of the model.
        fields: By number of layers; a number that the model does not allow is absent.
        connections: Of one recurrent layer, see `layer_connections`.
    """

    title: str
    fields: Mapping[int, Field]
    connections: Mapping[str, Tensor]


def draw_transitions(growths: Sequence[Growth], num_layers: Sequence[int]) -> "Figure":
    """Draw one row for each model, 2.1 inches a panel with 0.5 for titles and 0.5 for the legend."""
    parts = list(dict.fromkeys(name for growth in growths for name in growth.connections))
    columns = len(num_layers) + len(parts)
    figure = _figure(2.1 * columns + 0.4, 2.1 * len(growths) + 1.0)
    axes = figure.subplots(len(growths), columns, squeeze=False)
    for growth, row in zip(growths, axes, strict=True):
        before = None
        for ax, count in zip(row, num_layers, strict=False):
            field = growth.fields.get(count)
            if field is None:
                ax.set_axis_off()
                continue
            colors = _paint(field.earlier.shape, _FUTURE)
            colors[field.earlier.numpy()] = _rgb(_UNSEEN)
            colors[field.seen.numpy()] = _rgb(_SEEN)
            if before is not None:
                colors[(field.seen & before.seen).numpy()] = _rgb(_SEEN_BEFORE)
            colors[field.leaks.numpy()] = _rgb(_LEAK)
            _draw_pixels(ax, colors, field.position)
            before = field
        for ax, part in zip(row[len(num_layers) :], parts, strict=True):
            if part not in growth.connections or before is None:
                ax.set_axis_off()
                continue
            colors = _paint(before.earlier.shape, _FUTURE)
            colors[before.earlier.numpy()] = _rgb(_UNSEEN)
            colors[growth.connections[part].numpy()] = _rgb(_BLIND)
            _draw_pixels(ax, colors, before.position)
        _row_label(row[0], growth.title)
    for ax, count in zip(axes[0], num_layers, strict=False):
        ax.set_title(f"{count} layer{'' if count == 1 else 's'}", fontsize=10, color=_INK)
    for ax, part in zip(axes[0][len(num_layers) :], parts, strict=True):
        ax.set_title(f"one layer:\n{part}", fontsize=10, color=_INK)
    entries = {"the pixel": _SELF, "seen with this layer": _SEEN, "seen before": _SEEN_BEFORE}
    if parts:
        entries["what a state of one layer reads"] = _BLIND
    _legend(figure, entries | {"not seen": _UNSEEN, "future": _FUTURE}, columns=6)
    return figure


def draw_masks(masks: Sequence[LayerMask], *, title: str) -> "Figure":
    """Draw masks side by side, 3.2 inches each (4.2 with colour groups) and 1.1 for title and legend, at least two wide."""
    has_colors = any(max(each.mask.shape[:2]) > 1 for each in masks)
    side = 4.2 if has_colors else 3.2
    figure = _figure(side * max(2, len(masks)), side + 1.1)
    figure.suptitle(title, fontsize=12, fontweight="bold", color=_INK)
    largest = max(_extent(each) for each in masks)
    for ax, each in zip(figure.subplots(1, len(masks), squeeze=False)[0], masks, strict=True):
        _draw_mask(ax, each, extent=max(_extent(each), 0.45 * largest))
    entries = {"open, 1": _SEEN, "closed, 0": _BLIND}
    if any(tuple(each.mask.shape[2:]) != each.kernel_size for each in masks):
        entries["later positions, 0 (not stored)"] = _FUTURE
    _legend(figure, entries, columns=3)
    return figure


def draw_distributions(
    x: Tensor,
    probabilities: Mapping[tuple[int, int], Tensor],
    *,
    num_levels: int,
    title: str,
) -> "Figure":
    """Draw an image with marked pixels and beside it the distribution of their sub-pixels.

    Args:
        x: Levels, (C, H, W), C 1 or 3.
        probabilities: (C, K) for each marked (row, column).
        num_levels: K.
        title: Of the picture.

    Returns:
        A figure 4 inches wide for the image and 4 for the distributions (2.8 for each of three channels), 1.5 inches high for
        each marked pixel, at least 4.5.
    """
    channels = len(x)
    width = 4.0 if channels == 1 else 2.8 * channels
    figure = _figure(4.0 + width, max(4.5, 1.5 * len(probabilities) + 0.8))
    figure.suptitle(title, fontsize=12, fontweight="bold", color=_INK)
    left, right = cast(Any, figure.subfigures(1, 2, width_ratios=[4.0, width]))
    _draw_image(left.subplots(), x, list(probabilities), num_levels=num_levels)
    axes = right.subplots(len(probabilities), channels, squeeze=False)
    for number, ((position, table), row) in enumerate(
        zip(probabilities.items(), axes, strict=True), start=1
    ):
        for channel, ax in enumerate(row):
            true_level = int(x[(channel, *position)])
            color = _CHANNEL_COLORS[channel] if channels == 3 else _SEEN
            _draw_distribution(ax, table[channel].numpy(), true_level, color=color)
            name = f" {'RGB'[channel]}" if channels == 3 else ""
            ax.set_title(
                f"{number}{name}: level {true_level}, p = {float(table[channel, true_level]):.3g}",
                fontsize=9,
                color=_INK,
                loc="left",
            )
    for ax in axes[-1]:
        ax.set_xlabel("level", fontsize=9, color=_INK)
    for ax in axes[:, 0]:
        ax.set_ylabel("probability", fontsize=8, color=_INK)
    right.align_ylabels(axes[:, 0])
    return figure


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a diagram; the ending of the path chooses the format.

    Raises:
        RaypixelError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=DOTS_PER_INCH)
    except OSError as error:
        raise RaypixelError(f"{path}: cannot be written ({error.strerror or error})") from None


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    cast(Any, figure.get_layout_engine()).set(w_pad=0.08, h_pad=0.06)
    return figure


def _rgb(color: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    return to_rgb(color)


def _paint(shape: Sequence[int], color: str) -> np.ndarray:
    return np.tile(np.array(_rgb(color)), (*shape, 1))


def _draw_pixels(ax: "Axes", colors: np.ndarray, position: tuple[int, int]) -> None:
    height, width = colors.shape[:2]
    row, column = position
    colors[row, column] = _rgb(_SELF)
    ax.imshow(colors, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_xticks(np.arange(width + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(height + 1) - 0.5, minor=True)
    if max(height, width) <= 40:
        ax.grid(which="minor", color="#BBBBBB", linewidth=0.4)
    ax.tick_params(which="both", bottom=False, left=False, labelbottom=False, labelleft=False)
    ax.plot(column, row, marker="o", color="white", markersize=max(1.5, 40 / max(height, width)))
    for spine in ax.spines.values():
        spine.set_color("#888888")


def _magnitude_colors(figure: "Figure", ax: "Axes", field: Field) -> np.ndarray:
    """Map the gradients of seen pixels to colours by their logarithm, and add the scale."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    values = field.gradient[field.seen].numpy()
    top = float(values.max())
    norm = LogNorm(top * max(10.0**-_DECADES, float(values.min()) / top / 1.001), top, clip=True)
    blues = LinearSegmentedColormap.from_list("seen", colormaps["Blues"](np.linspace(0.2, 1, 256)))
    scale = figure.colorbar(ScalarMappable(norm, blues), ax=ax, shrink=0.8, pad=0.02)
    scale.set_label("mean absolute gradient", fontsize=9, color=_INK)
    scale.ax.tick_params(labelsize=8)
    return np.asarray(blues(norm(values)))[:, :3]


def _legend(figure: "Figure", entries: Mapping[str, str], *, columns: int) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=c, edgecolor="#888888", label=name) for name, c in entries.items()]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(columns, len(handles)),
        frameon=False,
        fontsize=9,
        labelcolor=_INK,
    )


def _row_label(ax: "Axes", text: str) -> None:
    ax.text(
        -0.06,
        0.5,
        text,
        transform=ax.transAxes,
        rotation=90,
        ha="right",
        va="center",
        fontsize=10,
        fontweight="bold",
        color=_INK,
    )


def _extent(each: LayerMask) -> float:
    outputs, inputs = each.mask.shape[:2]
    rows, columns = each.kernel_size
    return max(outputs * (rows + 1), inputs * (columns + 1)) - 1


def _draw_mask(ax: "Axes", each: LayerMask, *, extent: float) -> None:
    from matplotlib.patches import Rectangle

    outputs, inputs, rows, stored = each.mask.shape
    high, columns = each.kernel_size
    for o, i, r, c in _cells(outputs, inputs, high, columns):
        value = int(each.mask[o, i, r, c]) if r < rows and c < stored else None
        color = _FUTURE if value is None else _SEEN if value else _BLIND
        corner = (i * (columns + 1) + c, o * (high + 1) + r)
        ax.add_patch(Rectangle(corner, 1, 1, facecolor=color, edgecolor="white", linewidth=0.8))
        if extent < 10:
            ink = "white" if value else "black"
            where = (corner[0] + 0.5, corner[1] + 0.5)
            ax.text(*where, str(value or 0), ha="center", va="center", color=ink, fontsize=10)
        if (r, c) == (rows - 1, each.center):
            ax.add_patch(
                Rectangle(corner, 1, 1, fill=False, edgecolor="black", linewidth=1.8, zorder=3)
            )
    width, height = inputs * (columns + 1) - 1, outputs * (high + 1) - 1
    names = {1: [""], 3: ["R", "G", "B"]}
    for i, name in enumerate(names.get(inputs, [str(g) for g in range(inputs)])):
        where = (i * (columns + 1) + columns / 2, -0.02 * extent)
        text = f"from {name}" if name else ""
        ax.text(*where, text, ha="center", va="bottom", fontsize=9, color=_INK)
    for o, name in enumerate(names.get(outputs, [str(g) for g in range(outputs)])):
        where = (-0.02 * extent, o * (high + 1) + high / 2)
        text = f"to {name}" if name else ""
        ax.text(*where, text, ha="right", va="center", fontsize=9, color=_INK)
    middle, margin = (width / 2, height / 2), 0.58 * extent
    ax.set_xlim(middle[0] - margin, middle[0] + margin)
    ax.set_ylim(middle[1] + margin, middle[1] - margin)
    ax.set_aspect("equal")
    ax.set_axis_off()
    count = len(each.layers)
    layers = each.layers[0] if count == 1 else f"{count} layers"
    ax.set_title(f"mask {each.mask_type}, {high} x {columns}\n({layers})", fontsize=10, color=_INK)


def _cells(*sizes: int) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(size) for size in sizes))


def _draw_image(
    ax: "Axes", x: Tensor, positions: Sequence[tuple[int, int]], *, num_levels: int
) -> None:
    from matplotlib.patches import Rectangle

    picture = (x.double() / (num_levels - 1)).permute(1, 2, 0).expand(-1, -1, 3)
    ax.imshow(picture.numpy(), interpolation="nearest")
    ax.tick_params(labelsize=8)
    size = max(picture.shape[:2])
    for number, (row, column) in enumerate(positions, start=1):
        for color, line in (("black", 3.6), (_BLIND, 1.8)):
            box = Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, ec=color, lw=line)
            ax.add_patch(box)
        if size <= 12:  # room inside the pixel
            anchor, offset, ha, va = (column - 0.5, row - 0.5), (0.4, -0.4), "left", "top"
        elif column > picture.shape[1] * 0.8:
            anchor, offset, ha, va = (column - 0.5, row), (-0.5, 0.0), "right", "center"
        else:
            anchor, offset, ha, va = (column + 0.5, row), (0.5, 0.0), "left", "center"
        ax.annotate(
            str(number),
            anchor,
            xytext=offset,
            textcoords="offset fontsize",
            ha=ha,
            va=va,
            fontsize=9 if size > 12 else 10,
            fontweight="bold",
            color="black",
            bbox={"boxstyle": "round,pad=0.15", "fc": _BLIND, "ec": "black", "lw": 0.8},
        )


def _draw_distribution(ax: "Axes", table: np.ndarray, true_level: int, *, color: str) -> None:
    levels = np.arange(len(table))
    if len(table) > 64:
        ax.fill_between(levels, table, step="mid", color=color, linewidth=0)
    else:
        ax.bar(levels, table, width=0.8, color=color)
    ax.plot(
        true_level,
        0,
        marker="^",
        color="black",
        markersize=8,
        clip_on=False,
        zorder=5,
        markeredgecolor="white",
    )
    ax.axvline(true_level, color="black", linewidth=0.9, linestyle=(0, (3, 2)))
    ax.set_xlim(-0.7, len(table) - 0.3)
    ax.set_ylim(0, 1.05 if len(table) == 2 else max(float(table.max()) * 1.1, 1e-9))
    ax.tick_params(labelsize=8)
    if len(table) <= 4:
        ax.set_xticks(levels)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
