"""The plots of a report, as PNG."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_IN_LEGEND = 12
DPI = 120


def curves_png(
    curves: Mapping[str, Sequence[tuple[float, float]]], metric: str, order: Sequence[str]
) -> bytes:
    """Draw a metric by training step, a line for each trial; the best of `order` are named and in colour."""
    figure, axes = _axes()
    named = [name for name in order if name in curves][:MAX_IN_LEGEND]
    for name in [n for n in curves if n not in named] + named:
        xs, ys = zip(*curves[name], strict=True)
        style: dict[str, Any] = {"label": name} if name in named else {"color": "0.8"}
        axes.plot(xs, ys, marker="o", markersize=3, linewidth=1.3, **style)
    axes.set_xlabel("step")
    axes.set_ylabel(metric)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _png(figure)


def importance_png(shares: Mapping[str, float]) -> bytes:
    """Draw the share of the variance that each parameter explains alone."""
    figure, axes = _axes(height=0.8 + 0.4 * len(shares))
    names = list(shares)[::-1]
    axes.barh(names, [shares[name] for name in names], color="#4878a8", height=0.6)
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of the variance between trials, each parameter alone (eta squared)")
    return _png(figure)


def _axes(height: float = 3.6) -> "tuple[Figure, Axes]":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, height))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI, bbox_inches="tight")
    return buffer.getvalue()
