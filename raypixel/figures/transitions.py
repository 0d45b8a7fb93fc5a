"""How a receptive field grows layer by layer, and what one layer of a recurrent model connects.

Reference: van den Oord et al. 2016a, fig. 4.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from raypixel.config import ConfigProblems
from raypixel.figures.canvas import (
    BLIND,
    FUTURE,
    INK,
    LEAK,
    SEEN,
    SEEN_BEFORE,
    SELF,
    UNSEEN,
    add_legend,
    diagram_figure,
    draw_pixels,
    paint,
)
from raypixel.figures.fields import (
    Field,
    build_diagram_model,
    field_of_config,
    random_inputs,
    redraw,
    weighted_gradient,
)
from raypixel.models import ModelConfig, PixelModel, validate_model_config

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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


def growth_of_config(
    config: ModelConfig,
    image_shape: tuple[int, int, int],
    *,
    row: int,
    column: int,
    max_layers: int,
    title: str,
) -> Growth:
    """Compute the receptive fields of an architecture with every number of layers that it allows, up to `max_layers`."""
    fields: dict[int, Field] = {}
    connections: dict[str, Tensor] = {}
    given = config.model_dump(exclude_unset=True) | {"kind": config.kind}
    for num_layers in range(max_layers + 1):
        try:
            changed = validate_model_config({**given, "num_layers": num_layers})
        except ConfigProblems:  # most kinds start at one layer
            continue
        fields[num_layers] = field_of_config(
            changed, image_shape, row=row, column=column, title=title
        )
        if not connections:
            model = build_diagram_model(changed, image_shape)
            redraw(model, seed=0)
            connections = layer_connections(model, row, column)
    return Growth(title, fields, connections)


def layer_connections(model: PixelModel, row: int, column: int) -> dict[str, Tensor]:
    """Compute what one recurrent layer connects: input-to-state, and state-to-state over all its steps.

    Args:
        model: A registered model in float64 with random parameters.
        row: Of a state.
        column: Of a state.

    Returns:
        For "input-to-state" and "state-to-state" which positions the state depends on, (H, W), bool, the first such layer of
        the model; empty for a model without recurrent layers.
    """
    layer: Any = next((m for m in model.modules() if hasattr(m, "recurrence")), None)
    if layer is None or any(isinstance(child, PixelModel) for child in model.children()):
        return {}  # what is made of other models has none of its own: they have their own rows
    parts = {"input-to-state": layer.input_to_state, "state-to-state": layer.recurrence}
    generator = torch.Generator().manual_seed(0)
    with _recorded(parts.values()) as calls:
        model(*random_inputs(model, 4, generator))
    connections = {}
    for name, part in parts.items():
        before, after = calls[part]
        gradient = weighted_gradient(after[:, :, row, column], before, generator)
        connections[name] = (gradient != 0).any(0).any(0)
    return connections


@contextmanager
def _recorded(modules: Iterable[nn.Module]) -> Iterator[dict[nn.Module, tuple[Tensor, Tensor]]]:
    """Keep the first input and the output of each module's last call in a block."""
    calls: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def keep(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        calls[module] = (inputs[0], output)

    hooks = [module.register_forward_hook(keep) for module in modules]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def draw_transitions(growths: Sequence[Growth], num_layers: Sequence[int]) -> "Figure":
    """Draw one row for each model, 2.1 inches a panel with 0.5 for titles and 0.5 for the legend."""
    parts = list(dict.fromkeys(name for growth in growths for name in growth.connections))
    columns = len(num_layers) + len(parts)
    figure = diagram_figure(2.1 * columns + 0.4, 2.1 * len(growths) + 1.0)
    axes = figure.subplots(len(growths), columns, squeeze=False)
    for growth, row in zip(growths, axes, strict=True):
        _draw_growth(row, growth, num_layers, parts)
    titles = [f"{count} layer{'' if count == 1 else 's'}" for count in num_layers]
    titles += [f"one layer:\n{part}" for part in parts]
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, fontsize=10, color=INK)
    entries = {"the pixel": SELF, "seen with this layer": SEEN, "seen before": SEEN_BEFORE}
    if parts:
        entries["what a state of one layer reads"] = BLIND
    add_legend(figure, entries | {"not seen": UNSEEN, "future": FUTURE}, columns=6)
    return figure


def _draw_growth(
    row: "Sequence[Axes]", growth: Growth, num_layers: Sequence[int], parts: Sequence[str]
) -> None:
    before = None
    for ax, count in zip(row, num_layers, strict=False):
        field = growth.fields.get(count)
        if field is None:
            ax.set_axis_off()
            continue
        layers = [(field.earlier, UNSEEN), (field.seen, SEEN), (field.leaks, LEAK)]
        if before is not None:
            layers.append((field.seen & before.seen, SEEN_BEFORE))
        draw_pixels(ax, paint(field.earlier.shape, *layers), field.position)
        before = field
    for ax, part in zip(row[len(num_layers) :], parts, strict=True):
        if part not in growth.connections or before is None:
            ax.set_axis_off()
            continue
        layers = [(before.earlier, UNSEEN), (growth.connections[part], BLIND)]
        draw_pixels(ax, paint(before.earlier.shape, *layers), before.position)
    _label_row(row[0], growth.title)


def _label_row(ax: "Axes", text: str) -> None:
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
        color=INK,
    )
