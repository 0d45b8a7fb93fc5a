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

from pydantic import Field
from torch import Tensor, nn

from raypixel.config import OddSize
from raypixel.models.base import ModelConfig, PixelModel
from raypixel.models.registry import register
from raypixel.nn.likelihoods import likelihood_for
from raypixel.nn.masked import MaskedConv2d, color_groups, scale_levels
from raypixel.nn.norm import GroupedLayerNorm, emit_norm
from raypixel.nn.output import OutputHead, SkipSum
from raypixel.nn.plan import Linear, Plan, Plane, Stage, pick


@register("pixelcnn")
class PixelCNN(PixelModel):
    """Predict every sub-pixel from the pixels above it and to its left, all in parallel."""

    class Config(ModelConfig):
        """Options of PixelCNN."""

        kind: Literal["pixelcnn"] = "pixelcnn"
        """Name of the architecture."""
        hidden_size: int = Field(64, ge=1)
        """Features h inside a residual block; the maps between blocks have 2h."""
        num_layers: int = Field(8, ge=0)
        """Residual blocks."""
        kernel_size: OddSize = Field(3, ge=1)
        """Odd size of the masked convolution inside a block."""
        first_kernel_size: OddSize = Field(7, ge=1)
        """Odd size of the first masked convolution."""
        use_residual: bool = True
        """Add a block's input to its output."""
        use_skip: bool = False
        """Sum a 1x1 convolution of every block's output into the input of the output layers."""
        norm: Literal["none", "layer"] = "none"
        """Layer normalization before each block, per colour group."""
        use_color_conditioning: bool = True
        """Condition G on R and B on R, G of the same pixel; otherwise the three are independent given the past."""
        output_size: int = Field(128, ge=1)
        """Maps of the two 1x1 output layers."""

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

        num_channels = image_shape[0]
        num_colors = num_channels if config.use_color_conditioning else 1
        inputs = color_groups(num_channels, num_colors)
        wide = color_groups(2 * config.hidden_size, num_colors)
        narrow = color_groups(config.hidden_size, num_colors)

        self.first = MaskedConv2d(inputs, wide, kernel_size=config.first_kernel_size, mask_type="A")
        self.blocks = nn.ModuleList(
            _Block(
                wide,
                narrow,
                kernel_size=config.kernel_size,
                norm=config.norm,
                use_residual=config.use_residual,
                condition_channels=condition_channels,
            )
            for _ in range(config.num_layers)
        )
        self.skips = SkipSum(wide, num_layers=config.num_layers if config.use_skip else 0)
        self.head = OutputHead(
            wide,
            num_colors=num_colors,
            output_size=config.output_size,
            num_channels=num_channels,
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
            raise ValueError("class_labels must be None, pixelcnn is not class-conditional")
        features = scale_levels(x, num_levels=self.num_levels, dtype=self.first.weight.dtype)
        features = self.first(features)  # (N, 2h, H, W)
        skipped: Tensor | None = None
        for index, block in enumerate(self.blocks):
            features = block(features, condition)
            skipped = self.skips(index, features, skipped)
        params: Tensor = self.head(features, skipped)
        return params

    def stages(self) -> list[Stage]:
        """Return one scan with what sampling computes at each position."""
        plan = Plan(
            self.image_shape[0],
            self.image_shape[0] if self.config.use_color_conditioning else 1,
            self.image_shape[2],
            num_classes=self.num_classes,
            condition_channels=self.condition_channels,
        )
        features = self.first.emit(plan, plan.levels)
        skipped: Plane | None = None
        for index, block in enumerate(self.blocks):
            assert isinstance(block, _Block)
            features = block.emit(plan, features)
            skipped = self.skips.emit(plan, index, features, skipped)
        self.head.emit(plan, features, skipped)
        return [Stage(plan, 1, self.image_shape[1])]


class _Block(nn.Module):
    """ReLU, 1x1 2h to h, ReLU, k x k mask B, ReLU, 1x1 h to 2h, plus input."""

    def __init__(
        self,
        wide: Tensor,
        narrow: Tensor,
        *,
        kernel_size: int,
        norm: Literal["none", "layer"],
        use_residual: bool,
        condition_channels: int,
    ) -> None:
        super().__init__()
        self.use_residual = use_residual
        self.narrow = nn.Sequential(
            GroupedLayerNorm(wide) if norm == "layer" else nn.Identity(),
            nn.ReLU(),
            MaskedConv2d(wide, narrow, kernel_size=1, mask_type="B"),
            nn.ReLU(),
        )
        self.look = MaskedConv2d(narrow, narrow, kernel_size=kernel_size, mask_type="B")
        self.condition = (
            nn.Conv2d(condition_channels, len(narrow), 1, bias=False)
            if condition_channels
            else None
        )
        self.widen = nn.Sequential(
            nn.ReLU(), MaskedConv2d(narrow, wide, kernel_size=1, mask_type="B")
        )

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map (N, 2h, H, W) to the same shape; condition as in `PixelCNN.forward`."""
        y = self.look(self.narrow(x))
        if self.condition is not None:
            y = y + self.condition(condition)
        y = self.widen(y)
        return x + y if self.use_residual else y

    def emit(self, plan: Plan, x: Plane) -> Plane:
        """Append the block to a plan."""
        norm, _, narrow, _ = self.narrow
        _, widen = self.widen
        assert isinstance(narrow, MaskedConv2d)
        assert isinstance(widen, MaskedConv2d)
        plus: tuple[Plane, ...] = ()
        if self.condition is not None:
            assert plan.condition is not None
            added = plan.plane(len(self.condition.weight))
            weight = pick(self.condition.weight[:, :, 0, 0], range(added.size))
            plan.over_row(Linear(added.at(), (plan.condition.at(),), weight))
            plus = (added,)
        y = narrow.emit(plan, emit_norm(norm, plan, x), relu=True)
        y = self.look.emit(plan, y, relu=True, plus=plus)
        return widen.emit(plan, y, relu=True, plus=(x,) if self.use_residual else ())
