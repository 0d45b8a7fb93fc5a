"""What each architecture promises to see, as formulas: the other side of the receptive-field law, by kind of model.

`receptive_field` says which earlier pixels the parameters at a position depend on, `condition_field` at which positions they
see the conditioning maps of `multiscale`; both return (H, W), bool.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from raypixel.models import PixelModel
from raypixel.nn.upsampling import subsample


def receptive_field(model: PixelModel, row: int, column: int) -> Tensor:
    """Return which pixels generated before (row, column) its parameters depend on."""
    return _SEEN[model.config.kind](model, row, column)


def condition_field(model: PixelModel, row: int, column: int) -> Tensor:
    """Return at which positions the parameters at (row, column) see conditioning maps."""
    return _CONDITION_SEEN[model.config.kind](model, row, column)


def _nothing(model: PixelModel) -> Tensor:
    return torch.zeros(model.image_shape[1:], dtype=torch.bool)


def _pixelcnn(model: PixelModel, row: int, column: int) -> Tensor:
    """See left of the column as far as all radii R, up to R rows above; to the right only while climbing.

    d rows above, the stack reaches to the right what d upward steps can give, the rest is blind (2016b, fig. 1).
    """
    field, num_layers = _nothing(model), model.config.num_layers
    first, radius = model.config.first_kernel_size // 2, model.config.kernel_size // 2
    reach = first + num_layers * radius
    if not first:
        return field  # a 1x1 mask A sees earlier colours of the pixel itself and nothing else
    for i in range(max(0, row - reach), row + 1):
        climb = row - i
        # either the first layer climbs (and may go right), or it steps left by one and others climb
        first_climbs = first + min(climb - 1, num_layers) * radius
        others_climb = min(climb, num_layers) * radius - 1
        right = max(first_climbs, others_climb) if climb else -1
        field[i, max(0, column - reach) : column + right + 1] = True
    return field


def _pixelcnn_condition(model: PixelModel, row: int, column: int) -> Tensor:
    """See what the first block adds to its k x k convolution; later blocks pass it on left, or up and to either side."""
    field = _nothing(model)
    radius, later = model.config.kernel_size // 2, model.config.num_layers - 1
    for climb in range(min(row, later * radius) + 1 if later >= 0 else 0):
        right = min(climb, later) * radius
        field[row - climb, max(0, column - later * radius) : column + right + 1] = True
    return field


def _row_lstm(model: PixelModel, row: int, column: int) -> Tensor:
    """See a triangle (2016a, sec. 3.1 and fig. 4).

    With R the radius of the first layer and L layers: in the row itself L + R pixels to the left, and d rows above it,
    up to the top, columns from -(d + L + R) to +(d - 1 + R). A state climbs one row and one column to either side at
    a time, whichever layer it is in; each input-to-state steps left by one; the first layer adds its square, of
    which the current row is open on the left only.
    """
    field, radius = _nothing(model), model.config.first_kernel_size // 2
    for climb in range(row + 1):
        left = climb + model.config.num_layers + radius
        right = climb - 1 + radius if climb else -1
        field[row - climb, max(0, column - left) : column + right + 1] = True
    return field


def _row_lstm_condition(model: PixelModel, row: int, column: int) -> Tensor:
    """See the triangle of the first layer's states; L - 1 later layers step left by one each."""
    field = _nothing(model)
    for climb in range(row + 1):
        left = climb + model.config.num_layers - 1
        field[row - climb, max(0, column - left) : column + climb + 1] = True
    return field


def _diagonal_bilstm(model: PixelModel, row: int, column: int) -> Tensor:
    """See everything earlier, in both directions (2016a, sec. 3.2 and fig. 4).

    Left to right alone: the row up to the pixel, and of every row above the columns up to the pixel's and R more, the
    radius of the first layer.
    """
    field, radius = _nothing(model), model.config.first_kernel_size // 2
    field[row, :column] = True
    field[:row, : None if model.config.direction == "both" else column + radius + 1] = True
    return field


def _diagonal_bilstm_condition(model: PixelModel, row: int, column: int) -> Tensor:
    """See the row up to the pixel itself, and all rows above; left to right alone, those up to the pixel's column."""
    field = _nothing(model)
    field[row, : column + 1] = True
    field[:row, : None if model.config.direction == "both" else column + 1] = True
    return field


def _gated_pixelcnn(model: PixelModel, row: int, column: int) -> Tensor:
    """See a rectangle above and a strip to the left, with no blind spot (2016b, sec. 2.2 and fig. 1).

    Every earlier pixel within D rows and columns, where D = first_kernel_size // 2 + num_layers * (kernel_size // 2).
    D >= max(H, W) - 1 covers the whole context.
    """
    field, config = _nothing(model), model.config
    reach = config.first_kernel_size // 2 + config.num_layers * (config.kernel_size // 2)
    field[max(0, row - reach) : row, max(0, column - reach) : column + reach + 1] = True
    field[row, max(0, column - reach) : column] = True
    return field


def _gated_pixelcnn_condition(model: PixelModel, row: int, column: int) -> Tensor:
    """See a rectangle from the current row up: what the first layer adds spreads as far as the others reach."""
    field = _nothing(model)
    reach = model.config.num_layers * (model.config.kernel_size // 2)
    field[max(0, row - reach) : row + 1, max(0, column - reach) : column + reach + 1] = True
    return field


def _everything(model: PixelModel, row: int, column: int) -> Tensor:
    """See all earlier pixels: by attention, or by layers that reach further than these images are large."""
    field = _nothing(model)
    field[:row] = True
    field[row, :column] = True
    return field


def _multiscale(model: PixelModel, row: int, column: int) -> Tensor:
    """See, at a pixel of the small image, what the base sees, spread by the factor.

    Any other pixel sees what the conditional model sees of the raster-earlier pixels, and every pixel of the small image, later
    ones too, within `num_layers` cells of a position whose conditioning maps reach it.
    """
    field, factor = _nothing(model), model.config.factor
    small = subsample(field, factor)  # a view
    if row % factor == 0 and column % factor == 0:
        small.copy_(receptive_field(model.base, row // factor, column // factor))
        return field
    field |= receptive_field(model.conditional, row, column)
    positions = condition_field(model.conditional, row, column)
    small.logical_or_(cells_seen(positions, factor, model.config.num_layers))
    return field


def cells_seen(positions: Tensor, factor: int, num_layers: int) -> Tensor:
    """Return which pixels of the small image `UpsamplingNet` reads at any of some pixels of the full one.

    Args:
        positions: Pixels of the full image, (H, W), bool.
        factor: Pixels of the full image per pixel of the small one, in each direction.
        num_layers: Layers of the network.

    Returns:
        (ceil(H / factor), ceil(W / factor)), bool.
    """
    cells = F.max_pool2d(positions[None].float(), factor, ceil_mode=True)
    cells = F.max_pool2d(cells, 2 * num_layers + 1, stride=1, padding=num_layers)
    return cells[0] > 0


_SEEN = {
    "pixelcnn": _pixelcnn,
    "row_lstm": _row_lstm,
    "diagonal_bilstm": _diagonal_bilstm,
    "gated_pixelcnn": _gated_pixelcnn,
    "multiscale": _multiscale,
    "pixelcnn_pp": _everything,
    "pixelsnail": _everything,
}
_CONDITION_SEEN = {
    "pixelcnn": _pixelcnn_condition,
    "row_lstm": _row_lstm_condition,
    "diagonal_bilstm": _diagonal_bilstm_condition,
    "gated_pixelcnn": _gated_pixelcnn_condition,
}
