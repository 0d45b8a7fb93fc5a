"""Diagrams of a model, computed from the model itself: what an output depends on, its masks, its distributions.

Nothing is drawn from a formula. A receptive field is where a gradient in float64 is not exactly zero, a mask is
the buffer of a layer, a distribution is what the likelihood gives for every level. So a diagram also shows a mistake: a
later pixel with a gradient is marked as a leak. Each kind of diagram has a file that computes it and draws it.

Reference: van den Oord et al. 2016a, fig. 1, 2 and 4; 2016b, fig. 1 (blind spot).
"""

from raypixel.diagrams.canvas import DOTS_PER_INCH, save_figure
from raypixel.diagrams.distributions import (
    draw_distributions,
    level_probabilities,
    telling_positions,
)
from raypixel.diagrams.fields import (
    Field,
    draw_receptive_fields,
    earlier_pixels,
    field_of_config,
    field_of_model,
)
from raypixel.diagrams.gradients import (
    build_diagram_model,
    mean_gradient,
    random_mean_gradient,
    redraw,
)
from raypixel.diagrams.masks import LayerMask, draw_masks, layer_masks
from raypixel.diagrams.transitions import (
    Growth,
    draw_transitions,
    growth_of_config,
    layer_connections,
)

__all__ = [
    "DOTS_PER_INCH",
    "Field",
    "Growth",
    "LayerMask",
    "build_diagram_model",
    "draw_distributions",
    "draw_masks",
    "draw_receptive_fields",
    "draw_transitions",
    "earlier_pixels",
    "field_of_config",
    "field_of_model",
    "growth_of_config",
    "layer_connections",
    "layer_masks",
    "level_probabilities",
    "mean_gradient",
    "random_mean_gradient",
    "redraw",
    "save_figure",
    "telling_positions",
]
