"""Diagonal BiLSTM: a PixelRNN whose layers run along the diagonals of the image, in both directions.

A 7x7 masked convolution (mask A), `num_layers` residual LSTM blocks on 2h maps (1x1 mask B input-to-state 2h to 4h for each
direction, state-to-state from the left and the upper neighbour, right-to-left states moved down by one row and added,
1x1 h to 2h, plus input), then (ReLU, 1x1) twice to the parameters of each sub-pixel. A pixel sees every earlier one.

Reference: van den Oord et al. 2016a, sec. 3.2-3.4, eq. 3, fig. 3 and 5, table 1.
Unlike the paper, the right-to-left gates of the first layer also read the image at their own position, all colours: as
drawn there, the last pixel of the row above is blind from most of a row (see `raypixel.nn.lstm.LSTMBlock`).
Not given in the paper and chosen here: one learned initial vector of hidden and of cell state per direction for every
neighbour outside the image; skip connections as in `raypixel.nn.output`.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from raypixel.config import OddSize
from raypixel.models.base import ModelConfig, PixelModel
from raypixel.models.registry import register
from raypixel.nn.likelihoods import likelihood_for
from raypixel.nn.lstm import DiagonalRecurrence, Direction, LSTMBlock
from raypixel.nn.masked import MaskedConv2d, color_groups, scale_levels
from raypixel.nn.output import OutputHead, SkipSum
from raypixel.nn.plan import Plan, Plane, Stage


@register("diagonal_bilstm")
class DiagonalBiLSTM(PixelModel):
    """Predict every sub-pixel from all earlier ones."""

    class Config(ModelConfig):
        """Options of Diagonal BiLSTM."""

        kind: Literal["diagonal_bilstm"] = "diagonal_bilstm"
        """Name of the architecture."""
        hidden_size: int = Field(64, ge=1)
        """Features h of a state; the maps between blocks have 2h."""
        num_layers: int = Field(6, ge=1)
        """LSTM layers."""
        first_kernel_size: OddSize = Field(7, ge=3)
        """Odd size of the first masked convolution."""
        use_residual: bool = True
        """Add a block's input to its output."""
        use_skip: bool = False
        """Sum a 1x1 convolution of every block's output into the input of the output layers."""
        norm: Literal["none", "layer"] = "none"
        """Layer normalization before each block, per colour group."""
        output_size: int = Field(128, ge=1)
        """Maps of the two 1x1 output layers."""
        direction: Direction = "both"
        """Run both directions, or the left-to-right one alone, which sees little to the upper right."""

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
        self.blocks = nn.ModuleList(
            LSTMBlock(
                wide,
                narrow,
                recurrence=DiagonalRecurrence(config.hidden_size, config.direction),
                kernel_size=1,
                norm=config.norm,
                use_residual=config.use_residual,
                condition_channels=condition_channels,
                level_channels=num_colors if config.direction == "both" and index == 0 else 0,
            )
            for index in range(config.num_layers)
        )
        self.skips = SkipSum(wide, num_layers=config.num_layers if config.use_skip else 0)
        self.head = OutputHead(
            wide,
            num_colors=num_colors,
            output_size=config.output_size,
            num_channels=num_colors,
            num_params=self.likelihood.num_params,
        )

    def forward(
        self,
        x: Tensor,
        class_labels: Tensor | None = None,
        *,
        condition: Tensor | None = None,
    ) -> Tensor:
        """Return the parameters of every sub-pixel.

        Args:
            x: Levels in [0, K-1], (N, C, H, W), any integer type.
            class_labels: Must be None: this model is unconditional.
            condition: Conditioning maps, (N, condition_channels, H, W), if the model was made for them.

        Returns:
            Parameters of `self.likelihood`, (N, P, C, H, W).

        Raises:
            ValueError: Class labels are given.
        """
        if class_labels is not None:
            raise ValueError("class_labels must be None, diagonal_bilstm is not class-conditional")
        levels = scale_levels(x, num_levels=self.num_levels, dtype=self.first.weight.dtype)
        features = self.first(levels)  # (N, 2h, H, W)
        skipped: Tensor | None = None
        for index, block in enumerate(self.blocks):
            features = block(features, condition, levels=levels)
            skipped = self.skips(index, features, skipped)
        params: Tensor = self.head(features, skipped)
        return params

    def stages(self) -> list[Stage]:
        """Return one scan with what sampling computes at each position."""
        plan = Plan(
            self.image_shape[0],
            self.image_shape[0],
            self.image_shape[2],
            num_classes=self.num_classes,
            condition_channels=self.condition_channels,
        )
        features = self.first.emit(plan, plan.levels)
        skipped: Plane | None = None
        for index, block in enumerate(self.blocks):
            assert isinstance(block, LSTMBlock)
            features = block.emit(plan, features)
            skipped = self.skips.emit(plan, index, features, skipped)
        self.head.emit(plan, features, skipped)
        return [Stage(plan, 1, self.image_shape[1])]
