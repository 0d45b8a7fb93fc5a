"""PixelCNN: a stack of masked convolutions in residual blocks.

One kernel x kernel masked convolution (mask A), `num_layers` residual blocks on 2h maps (ReLU, 1x1 to h, ReLU,
k x k mask B, ReLU, 1x1 to 2h, plus input), then (ReLU, 1x1) twice to the parameters of each sub-pixel.

Reference: van den Oord et al. 2016a, sec. 3.3-3.5, fig. 5 left and table 1; layer normalization before a block and the
colour conditioning switch are of course report D.
The stack has the blind spot that Gated PixelCNN later removed (2016b, fig. 1): to the right it only
advances while it climbs.
As the conditional half of Multi-scale PixelRNN (2016a, sec. 3.6) each block adds an unmasked 1x1 of the conditioning maps
to its k x k convolution.
"""

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from raypixel.config import OddSize
from raypixel.models.base import PixelModel, StackConfig, check_class_labels
from raypixel.models.registry import register
from raypixel.nn.dropout import Dropout
from raypixel.nn.likelihoods import likelihood_for
from raypixel.nn.masked import MaskedConv2d, color_groups, scale_levels, unmasked
from raypixel.nn.norm import Normalization, emit_norm, make_norm
from raypixel.nn.plan import Linear, Plan, Plane, Stage, pick
from raypixel.nn.stack import ResidualStack, SideInputs


@register("pixelcnn")
class PixelCNN(PixelModel):
    """Predict every sub-pixel from the pixels above it and to its left, all in parallel."""

    class Config(StackConfig):
        """Options of PixelCNN."""

        kind: Literal["pixelcnn"] = "pixelcnn"
        """Name of the architecture."""
        hidden_size: int = Field(64, ge=1)
        """Features h inside a residual block; the maps between blocks have 2h."""
        num_layers: int = Field(8, ge=0)
        """Residual blocks."""
        kernel_size: OddSize = Field(3, ge=1)
        """Odd size of the masked convolution inside a block."""
        use_color_conditioning: bool = True
        """Condition G on R and B on R, G of the same pixel; otherwise the three are independent given the past."""

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
        self.num_colors = image_shape[0] if config.use_color_conditioning else 1
        self.condition_channels = condition_channels
        self.likelihood = likelihood_for(num_levels)

        inputs = color_groups(image_shape[0], self.num_colors)
        wide = color_groups(2 * config.hidden_size, self.num_colors)
        narrow = color_groups(config.hidden_size, self.num_colors)
        self.first = MaskedConv2d(inputs, wide, kernel_size=config.first_kernel_size, mask_type="A")
        self.stack = ResidualStack(
            lambda _: ConvolutionBlock(
                wide,
                narrow,
                kernel_size=config.kernel_size,
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
        plan = Plan(channels, self.num_colors, width, condition_channels=self.condition_channels)
        self.stack.emit(plan, self.first.emit(plan, plan.levels))
        return [Stage(plan, 1, height)]


class ConvolutionBlock(nn.Module):
    """ReLU, 1x1 2h to h, ReLU, k x k mask B, ReLU, 1x1 h to 2h, plus input."""

    def __init__(
        self,
        wide: Tensor,
        narrow: Tensor,
        *,
        kernel_size: int,
        norm: Normalization,
        use_residual: bool,
        dropout: float,
        condition_channels: int,
    ) -> None:
        super().__init__()
        self.use_residual = use_residual
        self.norm = make_norm(norm, wide)
        self.narrow = MaskedConv2d(wide, narrow, kernel_size=1, mask_type="B")
        self.look = MaskedConv2d(narrow, narrow, kernel_size=kernel_size, mask_type="B")
        self.condition = unmasked(condition_channels, len(narrow))
        self.dropout = Dropout(dropout)
        self.widen = MaskedConv2d(narrow, wide, kernel_size=1, mask_type="B")

    def forward(self, x: Tensor, side: SideInputs) -> Tensor:
        """Map (N, 2h, H, W) to the same shape."""
        y = self.look(F.relu(self.narrow(F.relu(self.norm(x)))))
        if self.condition is not None:
            y = y + self.condition(side.condition)
        y = self.widen(self.dropout(F.relu(y)))
        return x + y if self.use_residual else y

    def emit(self, plan: Plan, x: Plane) -> Plane:
        """Append the block to a plan."""
        plus: tuple[Plane, ...] = ()
        if self.condition is not None:
            assert plan.condition is not None
            added = plan.plane(len(self.condition.weight))
            weight = pick(self.condition.weight[:, :, 0, 0], range(added.size))
            plan.over_row(Linear(added.at(), (plan.condition.at(),), weight))
            plus = (added,)
        y = self.narrow.emit(plan, emit_norm(self.norm, plan, x), relu=True)
        y = self.look.emit(plan, y, relu=True, plus=plus)
        return self.widen.emit(plan, y, relu=True, plus=(x,) if self.use_residual else ())
