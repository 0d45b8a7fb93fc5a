"""What all figures share: an empty one, colors, a panel of pixels, the legend, the file.

Matplotlib is imported where it is used, since it is slow to import.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from torch import Tensor

from raypixel.grids import writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS_PER_INCH = 150

# Okabe and Ito's colors, which every kind of color vision tells apart
SEEN, SEEN_BEFORE, BLIND, LEAK = "#0072B2", "#9CCBEA", "#E69F00", "#D55E00"
FUTURE, UNSEEN, SELF, INK = "#DDDDDD", "#FFFFFF", "#000000", "#333333"
CHANNEL_COLORS = ("#D55E00", "#009E73", "#0072B2")


def empty_figure(width: float, height: float, *, is_laid_out: bool = True) -> "Figure":
    """Make a figure of a size in inches, which lays its panels out by itself if it is to."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained" if is_laid_out else None)
    FigureCanvasAgg(figure)
    return figure


def diagram_figure(width: float, height: float) -> "Figure":
    """Make the figure of a diagram: one with room between its panels."""
    figure = empty_figure(width, height)
    cast(Any, figure.get_layout_engine()).set(w_pad=0.08, h_pad=0.06)
    return figure


def rgb(color: str) -> tuple[float, float, float]:
    """Return red, green and blue in [0, 1]."""
    from matplotlib.colors import to_rgb

    return to_rgb(color)


def paint(shape: Sequence[int], *layers: tuple[Tensor, str]) -> np.ndarray:
    """Color the pixels of (H, W), (H, W, 3): the future's color, then each mask (H, W) its own over those before."""
    colors = np.tile(np.array(rgb(FUTURE)), (*shape, 1))
    for mask, color in layers:
        colors[mask.numpy()] = rgb(color)
    return colors


def draw_pixels(ax: "Axes", colors: np.ndarray, position: tuple[int, int]) -> None:
    """Draw colors (H, W, 3) as a grid, the pixel at the (row, column) that it is about with a dot."""
    height, width = colors.shape[:2]
    row, column = position
    colors[row, column] = rgb(SELF)
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


def add_legend(figure: "Figure", entries: Mapping[str, str], *, columns: int) -> None:
    """Explain colors, by their meaning, below all panels."""
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=c, edgecolor="#888888", label=name) for name, c in entries.items()]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(columns, len(handles)),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure; the ending of the path chooses the format.

    Raises:
        RaypixelError: The file cannot be written.
    """
    with writing(path) as whole:
        figure.savefig(whole, dpi=DOTS_PER_INCH)
