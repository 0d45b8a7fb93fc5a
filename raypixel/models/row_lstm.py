"""Row LSTM: a PixelRNN whose layers run over the image row by row.

A 7x7 masked convolution (mask A), `num_layers` residual LSTM blocks on 2h maps (3x1 mask B input-to-state 2h to 4h, 3x1
state-to-state h to 4h from the row above, 1x1 h to 2h, plus input), then (ReLU, 1x1) twice to the parameters of
each sub-pixel. A pixel sees a triangle of the rows above it (`tests/receptive_fields.py` has its formula).

Reference: van den Oord et al. 2016a, sec. 3.1, 3.3 and 3.4, eq. 3, fig. 4-5 and table 1.
Not given in the paper and chosen here: one learned initial vector of hidden and of cell state for the row above the image,
zeros beside it (as its convolutions pad); skip connections as in `raypixel.nn.stack`.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor

from raypixel.config import OddSize
from raypixel.models.base import PixelModel, StackConfig, check_class_labels
from raypixel.models.registry import register
from raypixel.nn.likelihoods import likelihood_for
from raypixel.nn.lstm import LSTMBlock, RowRecurrence
from raypixel.nn.masked import MaskedConv2d, color_groups, scale_levels
from raypixel.nn.plan import Plan, Stage
from raypixel.nn.stack import ResidualStack, SideInputs


@register("row_lstm")
class RowLSTM(PixelModel):
    """Predict every sub-pixel from a triangle of rows above it and a part of its own row."""

    class Config(StackConfig):
        """Options of Row LSTM."""

        kind: Literal["row_lstm"] = "row_lstm"
        """Name of the architecture."""
        hidden_size: int = Field(64, ge=1)
        """Features h of a state; the maps between blocks have 2h."""
        num_layers: int = Field(6, ge=1)
        """LSTM layers."""
        first_kernel_size: OddSize = Field(7, ge=3)
        """Odd size of the first masked convolution."""

    accepts_condition = True
    config: Config

    def __init__(
        self,
        config: Config,
        *,
        image_shape: tuple[int, int, int],
        num_levels: int,
        num_classes: int = 0,
        condition_channels: int = 0,
    ) -> None:
        super().__init__()
        self.config = config
        self.image_shape = image_shape
        self.num_levels = num_levels
        self.num_classes = num_classes
        self.condition_channels = condition_channels
        self.likelihood = likelihood_for(num_levels)

        num_colors = image_shape[0]
        inputs = color_groups(num_colors, num_colors)
        wide = color_groups(2 * config.hidden_size, num_colors)
        narrow = color_groups(config.hidden_size, num_colors)
        self.first = MaskedConv2d(inputs, wide, kernel_size=config.first_kernel_size, mask_type="A")
        self.stack = ResidualStack(
            lambda _: LSTMBlock(
                wide,
                narrow,
                recurrence=RowRecurrence(config.hidden_size),
                kernel_size=3,
                norm=config.norm,
                use_residual=config.use_residual,
                dropout=config.dropout,
                condition_channels=condition_channels,
            ),
            wide,
            num_layers=config.num_layers,
            use_skip=config.use_skip,
            output_size=config.output_size,
            num_channels=image_shape[0],
            num_params=self.likelihood.num_params,
        )

    def forward(
        self, x: Tensor, class_labels: Tensor | None = None, *, condition: Tensor | None = None
    ) -> Tensor:
        """Return the parameters of every sub-pixel, (N, P, C, H, W); see `PixelModel`."""
        check_class_labels(self, class_labels)
        levels = scale_levels(x, num_levels=self.num_levels, dtype=self.first.weight.dtype)
        side = SideInputs(levels, condition=condition)
        params: Tensor = self.stack(self.first(levels), side)
        return params

    def stages(self) -> list[Stage]:
        """Return one scan with what sampling computes at each position."""
        channels, height, width = self.image_shape
        plan = Plan(channels, channels, width, condition_channels=self.condition_channels)
        self.stack.emit(plan, self.first.emit(plan, plan.levels))
        return [Stage(plan, 1, height)]
