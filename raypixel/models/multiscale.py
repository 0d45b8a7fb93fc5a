"""Multi-scale PixelRNN: a small image first, then the full image given the small one.

The small image is every `factor`-th pixel of every `factor`-th row of x, from the top left one on: x[..., ::factor, ::factor],
ceil(H / factor) x ceil(W / factor) pixels, values unchanged. With S those pixels and the rest in raster order,

    log p(x) = log p_base(x_S) + sum over pixels i not in S of log p_conditional(x_i | x_S, x_j for j before i in raster order)

so every sub-pixel is counted once and the likelihood is exact. The base is an unconditional model of any registered
kind. A deconvolution net turns the small image into `condition_size` maps of full size, and each layer of the conditional model
adds an unmasked 1x1 of these maps to its input-to-state map. The conditional model runs over the whole image, in
which the pixels of S have their given values, and its parameters there are not used.
Pixels are generated in the order S (in the base's own order), then the rest in raster order: `generation_order`.

Reference: van den Oord et al. 2016a, sec. 3.6. Not given in the paper and chosen here: how the small image is made, the
depth and widths of the deconvolution net, and what becomes of the pixels of S in the large image.
"""

import dataclasses
import functools
from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator
from torch import Tensor

from raypixel.config import ConfigProblems
from raypixel.models.base import ModelConfig, PixelModel, check_class_labels
from raypixel.models.registry import model_classes, register, validate_model_config
from raypixel.nn.masked import scale_levels
from raypixel.nn.plan import Stage
from raypixel.nn.upsampling import UpsamplingNet, subsample

NestedConfig = Annotated[SerializeAsAny[ModelConfig], BeforeValidator(validate_model_config)]


def _diagonal_bilstm() -> ModelConfig:
    return validate_model_config({"kind": "diagonal_bilstm"})


@register("multiscale")
class Multiscale(PixelModel):
    """Predict a subsampled image, then every other pixel from all of it and the earlier pixels."""

    class Config(ModelConfig):
        """Options of Multi-scale PixelRNN."""

        kind: Literal["multiscale"] = "multiscale"
        """Name of the architecture."""
        hidden_size: int = Field(32, ge=1)
        """Maps between the layers of the deconvolution net; the two models have their own `hidden_size`."""
        num_layers: int = Field(2, ge=1)
        """Layers of the deconvolution net; the two models have their own `num_layers`."""
        dropout: float = Field(0.0, ge=0, lt=1)
        """Probability with which training sets a feature of the deconvolution net to zero; the two models have their own."""
        factor: int = Field(2, ge=2)
        """Every factor-th pixel of every factor-th row belongs to the small image."""
        condition_size: int = Field(16, ge=1)
        """Maps c that the deconvolution net hands to every layer of the conditional model."""
        base: NestedConfig = Field(default_factory=_diagonal_bilstm)
        """Model of the small image, any kind."""
        conditional: NestedConfig = Field(default_factory=_diagonal_bilstm)
        """Model of the other pixels, a kind whose layers accept conditioning maps."""

        @field_validator("conditional")
        @classmethod
        def _accepts_condition(cls, value: ModelConfig) -> ModelConfig:
            classes = model_classes().items()
            kinds = [kind for kind, model in classes if model.accepts_condition]
            if value.kind not in kinds:
                text = f"must be one of {', '.join(kinds)}, got {value.kind!r}"
                raise ConfigProblems([(("kind",), text)])
            return value

        @property
        def is_class_conditional(self) -> bool:
            """Whether either model is given class labels."""
            return self.base.is_class_conditional or self.conditional.is_class_conditional

    config: Config

    def __init__(
        self,
        config: Config,
        *,
        image_shape: tuple[int, int, int],
        num_levels: int,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.config = config
        self.image_shape = image_shape
        self.num_levels = num_levels
        self.num_classes = num_classes
        channels, height, width = image_shape
        small_shape = (channels, -(-height // config.factor), -(-width // config.factor))
        self.base = model_classes()[config.base.kind](
            config.base,
            image_shape=small_shape,
            num_levels=num_levels,
            num_classes=num_classes if config.base.is_class_conditional else 0,
        )
        self.upsample = UpsamplingNet(
            channels,
            config.condition_size,
            hidden_size=config.hidden_size,
            num_layers=config.num_layers,
            dropout=config.dropout,
            factor=config.factor,
        )
        self.conditional = model_classes()[config.conditional.kind](
            config.conditional,
            image_shape=image_shape,
            num_levels=num_levels,
            num_classes=num_classes if config.conditional.is_class_conditional else 0,
            condition_channels=config.condition_size,
        )
        self.likelihood = self.base.likelihood
        other = self.conditional.likelihood
        kinds = [(type(each), each.num_maps(channels)) for each in (self.likelihood, other)]
        if kinds[0] != kinds[1]:
            names = " and ".join(type(each).__name__ for each in (self.likelihood, other))
            raise ValueError(f"base and conditional must have the same likelihood, got {names}")

    def forward(self, x: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Return the parameters of every sub-pixel: those of the small image from the base, all others conditional."""
        check_class_labels(self, class_labels)
        small = subsample(x, self.config.factor)  # (N, C, h, w)
        condition = _conditioning_maps(
            x,
            upsample=self.upsample,
            factor=self.config.factor,
            num_levels=self.num_levels,
        )  # (N, c, H, W)
        small_params = self.base(small, class_labels if self.base.num_classes else None)
        params: Tensor = self.conditional(
            x, class_labels if self.conditional.num_classes else None, condition=condition
        )
        params = params.clone()
        subsample(params, self.config.factor).copy_(small_params)
        return params

    def stages(self) -> list[Stage]:
        """Return how sampling goes: the small image in the base's stages, then the others in raster order."""
        factor = self.config.factor
        base = [
            dataclasses.replace(stage, stride=factor * stage.stride) for stage in self.base.stages()
        ]
        _, height, width = self.image_shape
        given = torch.zeros(height, width, dtype=torch.bool)
        given[::factor, ::factor] = True
        condition = functools.partial(
            _conditioning_maps,
            upsample=self.upsample,
            factor=factor,
            num_levels=self.num_levels,
        )
        (others,) = self.conditional.stages()
        return [*base, dataclasses.replace(others, given=given, condition=condition)]

    def generation_order(self) -> list[tuple[int, int]]:
        """Return the pixels of the small image in the base's order, then the others in raster order."""
        factor = self.config.factor
        small = [(factor * i, factor * j) for i, j in self.base.generation_order()]
        is_small = set(small)
        return small + [ij for ij in self.conditional.generation_order() if ij not in is_small]


def _conditioning_maps(
    x: Tensor, *, upsample: UpsamplingNet, factor: int, num_levels: int
) -> Tensor:
    """Return conditioning maps (N, c, H, W) of levels (N, C, H, W), of which only the small image counts."""
    dtype = next(upsample.parameters()).dtype
    levels = scale_levels(subsample(x, factor), num_levels=num_levels, dtype=dtype)
    maps: Tensor = upsample(levels, height=x.shape[2], width=x.shape[3])
    return maps
