"""The distributions that a model gives to the sub-pixels of an image, asked of its likelihood for every level.

Reference: van den Oord et al. 2016a, fig. 6 (softmax distributions of a trained model).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from raypixel.figures.canvas import BLIND, CHANNEL_COLORS, INK, SEEN, diagram_figure, empty_figure
from raypixel.models import PixelModel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RANKS = (0.02, 0.1, 0.25, 0.4, 0.6, 0.8)  # shares of the image's pixels that are more surprising


@torch.no_grad()
def level_probabilities(
    model: PixelModel,
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
    x, params = _parameters(model, x, class_label)
    params = params[..., row : row + 1, column : column + 1].double()
    levels = torch.arange(model.num_levels, device=x.device)
    params = params.expand(len(levels), *params.shape[1:])  # (K, P, C, 1, 1) or (K, P, 1, 1)
    probabilities = []
    for channel in range(x.shape[1]):
        every = x[:, :, row, column].long().repeat(len(levels), 1)  # (K, C)
        every[:, channel] = levels
        nats = model.likelihood.nll_map(params, every[:, :, None, None])
        probabilities.append(torch.exp(-nats[:, channel, 0, 0]))
    return torch.stack(probabilities).double().cpu()


@torch.no_grad()
def telling_positions(
    model: PixelModel, x: Tensor, *, count: int, class_label: int | None = None
) -> list[tuple[int, int]]:
    """Choose pixels of an image (C, H, W) from very to little surprising ones: a few quantiles of their nats."""
    x, params = _parameters(model, x, class_label)
    nats = model.likelihood.nll_map(params, x).sum(1)[0].cpu()  # (H, W)
    order = nats.flatten().argsort(descending=True).tolist()
    ranks = [int(len(order) * share) for share in _RANKS[:count]]
    return sorted({divmod(order[rank], nats.shape[1]) for rank in ranks})


def _parameters(model: PixelModel, x: Tensor, class_label: int | None) -> tuple[Tensor, Tensor]:
    """Return an image (C, H, W) as a batch of one on the model's device, and the model's parameters (1, P, C, H, W)."""
    x = x[None].to(next(model.parameters()).device)
    has_classes = model.num_classes > 0
    labels = torch.tensor([class_label or 0], device=x.device) if has_classes else None
    return x, model(x, labels)


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
    figure = diagram_figure(4.0 + width, max(4.5, 1.5 * len(probabilities) + 0.8))
    figure.suptitle(title, fontsize=12, fontweight="bold", color=INK)
    left, right = cast(Any, figure.subfigures(1, 2, width_ratios=[4.0, width]))
    _draw_image(left.subplots(), x, list(probabilities), num_levels=num_levels)
    axes = right.subplots(len(probabilities), channels, squeeze=False)
    rows = zip(axes, probabilities.items(), strict=True)
    for number, (row, (position, table)) in enumerate(rows, start=1):
        true_levels = x[(slice(None), *position)].tolist()
        _draw_distributions(row, table, true_levels, number=number)
    for ax in axes[-1]:
        ax.set_xlabel("level", fontsize=9, color=INK)
    for ax in axes[:, 0]:
        ax.set_ylabel("probability", fontsize=8, color=INK)
    right.align_ylabels(axes[:, 0])
    return figure


def _draw_image(
    ax: "Axes", x: Tensor, positions: Sequence[tuple[int, int]], *, num_levels: int
) -> None:
    from matplotlib.patches import Rectangle

    picture = (x.double() / (num_levels - 1)).permute(1, 2, 0).expand(-1, -1, 3)
    ax.imshow(picture.numpy(), interpolation="nearest")
    ax.tick_params(labelsize=8)
    size = max(picture.shape[:2])
    for number, (row, column) in enumerate(positions, start=1):
        for color, line in (("black", 3.6), (BLIND, 1.8)):
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
            bbox={"boxstyle": "round,pad=0.15", "fc": BLIND, "ec": "black", "lw": 0.8},
        )


def _draw_distributions(
    row: "Sequence[Axes]", table: Tensor, true_levels: Sequence[int], *, number: int
) -> None:
    """Draw the distributions (C, K) of one marked pixel's sub-pixels side by side."""
    names, colors = ([" R", " G", " B"], CHANNEL_COLORS) if len(table) == 3 else ([""], (SEEN,))
    for ax, one, level, name, color in zip(row, table, true_levels, names, colors, strict=True):
        _draw_distribution(ax, one.numpy(), level, color=color)
        text = f"{number}{name}: level {level}, p = {float(one[level]):.3g}"
        ax.set_title(text, fontsize=9, color=INK, loc="left")


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


def draw_surprise(x: Tensor, nats: Tensor, *, num_levels: int) -> "Figure":
    """Draw images beside maps of how much each pixel surprises a model, with a color bar in nats.

    Args:
        x: Levels, (N, C, H, W).
        nats: Nats of each pixel, summed over channels, (N, H, W).
        num_levels: K.
    """
    count = len(x)
    pairs = min(4, count)  # image and map, image and map, ..
    rows = -(-count // pairs)
    figure = empty_figure(3.2 * pairs + 1, 1.8 * rows + 0.4)
    axes = figure.subplots(rows, 2 * pairs, squeeze=False).flatten()
    for axis in axes:
        axis.set_axis_off()
    highest = max(float(nats.max()), 1e-6)
    for k in range(count):
        image = x[k].permute(1, 2, 0).float() / (num_levels - 1)
        axes[2 * k].imshow(image.squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
        shown = axes[2 * k + 1].imshow(nats[k].numpy(), cmap="magma", vmin=0, vmax=highest)
        axes[2 * k + 1].set_title(f"{float(nats[k].sum()):.1f} nats", fontsize=8)
    figure.colorbar(shown, ax=list(axes), label="nats per pixel", shrink=0.8)
    return figure
