"""The masks of a model's masked convolutions, read from the buffers of its layers.

Reference: van den Oord et al. 2016a, sec. 3.4 and fig. 2.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from raypixel.figures.canvas import BLIND, FUTURE, INK, SEEN, add_legend, diagram_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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

    @property
    def drawn_size(self) -> tuple[int, int]:
        """Rows and columns of cells of all groups, with a gap of one cell between groups."""
        outputs, inputs = self.mask.shape[:2]
        rows, columns = self.kernel_size
        return outputs * (rows + 1) - 1, inputs * (columns + 1) - 1


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


def draw_masks(masks: Sequence[LayerMask], *, title: str) -> "Figure":
    """Draw masks side by side, 3.2 inches each (4.2 with color groups) and 1.1 for title and legend, at least two wide."""
    has_colors = any(max(each.mask.shape[:2]) > 1 for each in masks)
    side = 4.2 if has_colors else 3.2
    figure = diagram_figure(side * max(2, len(masks)), side + 1.1)
    figure.suptitle(title, fontsize=12, fontweight="bold", color=INK)
    largest = max(max(each.drawn_size) for each in masks)
    for ax, each in zip(figure.subplots(1, len(masks), squeeze=False)[0], masks, strict=True):
        _draw_mask(ax, each, extent=max(*each.drawn_size, 0.45 * largest))
    entries = {"open, 1": SEEN, "closed, 0": BLIND}
    if any(tuple(each.mask.shape[2:]) != each.kernel_size for each in masks):
        entries["later positions, 0 (not stored)"] = FUTURE
    add_legend(figure, entries, columns=3)
    return figure


def _draw_mask(ax: "Axes", each: LayerMask, *, extent: float) -> None:
    """Draw one mask in a square panel that is a little more than `extent` cells wide."""
    _draw_cells(ax, each, has_numbers=extent < 10)
    _name_groups(ax, each, gap=0.02 * extent)
    height, width = each.drawn_size
    margin = 0.58 * extent
    ax.set_xlim(width / 2 - margin, width / 2 + margin)
    ax.set_ylim(height / 2 + margin, height / 2 - margin)
    ax.set_aspect("equal")
    ax.set_axis_off()
    count = len(each.layers)
    layers = each.layers[0] if count == 1 else f"{count} layers"
    rows, columns = each.kernel_size
    text = f"mask {each.mask_type}, {rows} x {columns}\n({layers})"
    ax.set_title(text, fontsize=10, color=INK)


def _draw_cells(ax: "Axes", each: LayerMask, *, has_numbers: bool) -> None:
    from matplotlib.patches import Rectangle

    outputs, inputs, rows, stored = each.mask.shape
    high, columns = each.kernel_size
    for o, i, r, c in itertools.product(*map(range, (outputs, inputs, high, columns))):
        value = int(each.mask[o, i, r, c]) if r < rows and c < stored else None
        color = FUTURE if value is None else SEEN if value else BLIND
        corner = (i * (columns + 1) + c, o * (high + 1) + r)
        ax.add_patch(Rectangle(corner, 1, 1, facecolor=color, edgecolor="white", linewidth=0.8))
        if has_numbers:
            ink = "white" if value else "black"
            where = (corner[0] + 0.5, corner[1] + 0.5)
            ax.text(*where, str(value or 0), ha="center", va="center", color=ink, fontsize=10)
        if (r, c) == (rows - 1, each.center):
            frame = Rectangle(corner, 1, 1, fill=False, edgecolor="black", linewidth=1.8, zorder=3)
            ax.add_patch(frame)


def _name_groups(ax: "Axes", each: LayerMask, *, gap: float) -> None:
    """Write the colors of input groups above the cells, of output groups to their left; a single group has no name."""
    outputs, inputs = each.mask.shape[:2]
    rows, columns = each.kernel_size
    for i, name in enumerate(_group_names(inputs)):
        center = i * (columns + 1) + columns / 2
        ax.text(center, -gap, f"from {name}", ha="center", va="bottom", fontsize=9, color=INK)
    for o, name in enumerate(_group_names(outputs)):
        center = o * (rows + 1) + rows / 2
        ax.text(-gap, center, f"to {name}", ha="right", va="center", fontsize=9, color=INK)


def _group_names(count: int) -> Sequence[str]:
    return {1: [], 3: ["R", "G", "B"]}.get(count, [str(group) for group in range(count)])
