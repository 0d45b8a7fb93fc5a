"""Gated PixelCNN: a vertical and a horizontal stack of gated convolutions, without a blind spot.

A first layer (mask A, `first_kernel_size`) and `num_layers` more (mask B, `kernel_size`), each gated by
tanh(content) * sigmoid(gate); the vertical stack feeds the horizontal one at every layer; then (ReLU, 1x1) twice on the
horizontal stack to the parameters of each sub-pixel. With class conditioning every layer adds an embedding of the class to
both halves of both stacks.

Reference: van den Oord et al. 2016b, sec. 2, eq. 2-4, fig. 2; output layers of 2016a, table 1.
Not given in the paper and chosen here: the size of the first layer (7, as in 2016a); skip connections as in
`raypixel.nn.stack`, off by default. Layer normalization is an option of this code.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor

from raypixel.config import OddSize
from raypixel.models.base import ModelConfig, PixelModel, check_class_labels, check_classes
from raypixel.models.registry import register
from raypixel.nn.gated import GatedLayer
from raypixel.nn.likelihoods import likelihood_for
from raypixel.nn.masked import color_groups, scale_levels
from raypixel.nn.norm import Normalization
from raypixel.nn.plan import Plan, Stage
from raypixel.nn.stack import ResidualStack, SideInputs


@register("gated_pixelcnn")
class GatedPixelCNN(PixelModel):
    """Predict every sub-pixel from a full window of pixels above it and to its left, all in parallel."""

    class Config(ModelConfig):
        """Options of Gated PixelCNN."""

        kind: Literal["gated_pixelcnn"] = "gated_pixelcnn"
        """Name of the architecture."""
        hidden_size: int = Field(64, ge=1)
        """Features p of each stack; a gated convolution has 2p maps."""
        num_layers: int = Field(8, ge=0)
        """Gated layers after the first."""
        kernel_size: OddSize = Field(3, ge=1)
        """Odd size n of the layers: n // 2 + 1 rows of n in the vertical stack, n // 2 + 1 columns in the horizontal."""
        first_kernel_size: OddSize = Field(7, ge=3)
        """Odd size of the first layer, which leaves the current row out of the vertical stack."""
        use_residual: bool = True
        """Add a layer's input to its output, on the horizontal stack."""
        use_skip: bool = False
        """Sum a 1x1 convolution of every layer's horizontal output into the input of the output layers."""
        norm: Normalization = "none"
        """Layer normalization of both inputs of a layer, per colour group on the horizontal stack."""
        use_class_conditioning: bool = False
        """Add an embedding of the class to both halves of both stacks in every layer."""
        output_size: int = Field(128, ge=1)
        """Maps of the two 1x1 output layers."""

        @property
        def is_class_conditional(self) -> bool:
            """Whether the model is given class labels."""
            return self.use_class_conditioning

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
        check_classes(config, num_classes)
        self.config = config
        self.image_shape = image_shape
        self.num_levels = num_levels
        self.num_classes = num_classes if config.use_class_conditioning else 0
        self.condition_channels = condition_channels
        self.likelihood = likelihood_for(num_levels)

        num_colors = image_shape[0]
        inputs = color_groups(num_colors, num_colors)
        groups = color_groups(config.hidden_size, num_colors)
        added = {"num_classes": self.num_classes, "condition_channels": condition_channels}
        self.first = GatedLayer(
            inputs,
            groups,
            kernel_size=config.first_kernel_size,
            mask_type="A",
            norm="none",
            use_residual=False,
            **added,
        )
        self.stack = ResidualStack(
            lambda _: GatedLayer(
                groups,
                groups,
                kernel_size=config.kernel_size,
                mask_type="B",
                norm=config.norm,
                use_residual=config.use_residual,
                dropout=config.dropout,
                **added,
            ),
            groups,
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
        levels = scale_levels(x, num_levels=self.num_levels, dtype=self.first.output.weight.dtype)
        side = SideInputs(levels, class_labels, condition)
        params: Tensor = self.stack(self.first((levels, levels), side), side)
        return params

    def stages(self) -> list[Stage]:
        """Return one scan with what sampling computes at each position."""
        channels, height, width = self.image_shape
        plan = Plan(
            channels,
            channels,
            width,
            num_classes=self.num_classes,
            condition_channels=self.condition_channels,
        )
        self.stack.emit(plan, self.first.emit(plan, (plan.levels, plan.levels)))
        return [Stage(plan, 1, height)]
