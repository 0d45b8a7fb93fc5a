"""Gated PixelCNN: a vertical and a horizontal stack of gated convolutions, without a blind spot.

A first layer (mask A, `first_kernel_size`) and `num_layers` more (mask B, `kernel_size`), each gated by
tanh(content) * sigmoid(gate); the vertical stack feeds the horizontal one at every layer; then (ReLU, 1x1) twice on the
horizontal stack to the parameters of each sub-pixel. With class conditioning every layer adds an embedding of the class to
both halves of both stacks.

Reference: van den Oord et al. 2016b, sec. 2, eq. 2-4, fig. 2; output layers of 2016a, table 1.
Not given in the paper and chosen here: the size of the first layer (7, as in 2016a); skip connections as in
`raypixel.nn.output`, off by default. Layer normalization is an option of this code.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from raypixel.config import OddSize
from raypixel.models.base import ModelConfig, PixelModel
from raypixel.models.registry import register
from raypixel.nn.gated import GatedLayer
from raypixel.nn.likelihoods import likelihood_for
from raypixel.nn.masked import color_groups, scale_levels
from raypixel.nn.output import OutputHead, SkipSum
from raypixel.nn.plan import Plan, Plane, Stage


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
        norm: Literal["none", "layer"] = "none"
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
        if config.use_class_conditioning and not num_classes:
            raise ValueError(
                "use_class_conditioning must be false for data without classes, got true"
            )
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
        self.layers = nn.ModuleList(
            GatedLayer(
                groups,
                groups,
                kernel_size=config.kernel_size,
                mask_type="B",
                norm=config.norm,
                use_residual=config.use_residual,
                **added,
            )
            for _ in range(config.num_layers)
        )
        self.skips = SkipSum(groups, num_layers=config.num_layers if config.use_skip else 0)
        self.head = OutputHead(
            groups,
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
            class_labels: (N,) int64 in [0, num_classes-1] with class conditioning, else None.
            condition: Conditioning maps, (N, condition_channels, H, W), if the model was made for them.

        Returns:
            Parameters of `self.likelihood`, (N, P, C, H, W).

        Raises:
            ValueError: Class labels are missing, or given to a model without class conditioning.
        """
        if class_labels is None and self.num_classes:
            raise ValueError(f"class_labels must be given, one of {self.num_classes} per image")
        if class_labels is not None and not self.num_classes:
            raise ValueError("class_labels must be None, this model is not class-conditional")
        levels = scale_levels(x, num_levels=self.num_levels, dtype=self.first.output.weight.dtype)
        vertical, horizontal = self.first(
            levels, levels, class_labels=class_labels, condition=condition
        )  # (N, p, H, W) each
        skipped: Tensor | None = None
        for index, layer in enumerate(self.layers):
            vertical, horizontal = layer(
                vertical, horizontal, class_labels=class_labels, condition=condition
            )
            skipped = self.skips(index, horizontal, skipped)
        params: Tensor = self.head(horizontal, skipped)
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
        vertical, horizontal = self.first.emit(plan, plan.levels, plan.levels)
        skipped: Plane | None = None
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, GatedLayer)
            vertical, horizontal = layer.emit(plan, vertical, horizontal)
            skipped = self.skips.emit(plan, index, horizontal, skipped)
        self.head.emit(plan, horizontal, skipped)
        return [Stage(plan, 1, self.image_shape[1])]
