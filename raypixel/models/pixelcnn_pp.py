"""PixelCNN++: two streams of gated residual layers at several resolutions, whole pixels drawn from a mixture.

The stream of rows sees the rows above a position, the stream of pixels its own row to the left too, and receives the former at
every layer. On the way down there are `num_layers` layers of each resolution, halved in between by strided convolutions; on
the way up one more of each but the lowest, doubled in between by transposed convolutions, each layer joined with its mirror
of the way down. The parameters come from the stream of pixels by a 1x1. A pixel is conditioned on as a whole: its channels
are one distribution. An odd size n has (n + 1) / 2 rows at the next resolution, and the way back is cut.

Reference: Salimans et al. 2017 (arXiv 1701.05517), sec. 2 and fig. 2; 160 filters, 5 layers and 2 downsamplings are the paper's.
Unlike the paper, two levels are drawn from a Bernoulli distribution by default.
"""

import functools
from collections.abc import Iterator
from typing import Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from raypixel.models.base import WholePixelConfig, WholePixelModel, check_class_labels
from raypixel.models.registry import register
from raypixel.nn.gated_residual import (
    Features,
    FirstLayer,
    GatedResidual,
    PixelHead,
    emit_elu,
    shifted_inputs,
    with_ones,
)
from raypixel.nn.masked import scale_levels
from raypixel.nn.plan import Plan, Stage, When
from raypixel.nn.shifted import ShiftedConv2d, ShiftedUpsampling, linear

_ELU_WIDTH = 2  # concat_elu


@register("pixelcnn_pp")
class PixelCNNPP(WholePixelModel):
    """Predict every pixel from the pixels above it and to its left, through maps of several resolutions."""

    class Config(WholePixelConfig):
        """Options of PixelCNN++."""

        kind: Literal["pixelcnn_pp"] = "pixelcnn_pp"
        """Name of the architecture."""
        num_layers: int = Field(2, ge=1)
        """Gated residual layers of each resolution on the way down; one more on the way up, but at the lowest."""
        num_downsamplings: int = Field(2, ge=0, le=2)
        """How often the resolution is halved."""

    config: Config

    def __init__(self, config: Config, *, image_shape: tuple[int, int, int], **facts: int) -> None:
        super().__init__(config, image_shape=image_shape, **facts)
        size, inputs, last = config.hidden_size, image_shape[0] + 1, config.num_downsamplings
        self.first_row = ShiftedConv2d(inputs, size, (2, 3), is_centered=True, shift=(1, 0))
        self.first_pixel = FirstLayer(inputs, size, elu_width=_ELU_WIDTH)
        self.down = nn.ModuleList(
            self._layers(config.num_layers, mirrors=0) for _ in range(last + 1)
        )
        self.downsamplings = nn.ModuleList(
            nn.ModuleList(
                [
                    ShiftedConv2d(size, size, (2, 3), is_centered=True, stride=2),
                    ShiftedConv2d(size, size, (2, 2), stride=2),
                ]
            )
            for _ in range(last)
        )
        self.up = nn.ModuleList(
            self._layers(config.num_layers + (resolution < last), mirrors=1)
            for resolution in reversed(range(last + 1))
        )
        self.upsamplings = nn.ModuleList(
            nn.ModuleList(
                [
                    ShiftedUpsampling(size, is_centered=True),
                    ShiftedUpsampling(size, is_centered=False),
                ]
            )
            for _ in range(last)
        )
        self.head = PixelHead(size, self.likelihood, image_shape[0])

    def _layers(self, count: int, *, mirrors: int) -> nn.ModuleList:
        """Make layers of both streams, joined with maps of so many mirrors."""
        config, size = self.config, self.config.hidden_size
        options: dict[str, Any] = {
            "elu_width": _ELU_WIDTH,
            "dropout": config.dropout,
            "num_classes": self.num_classes,
        }
        return nn.ModuleList(
            nn.ModuleList(
                [
                    GatedResidual(
                        size, (2, 3), is_centered=True, joined_channels=mirrors * size, **options
                    ),
                    GatedResidual(size, (2, 2), joined_channels=(1 + mirrors) * size, **options),
                ]
            )
            for _ in range(count)
        )

    def forward(self, x: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Return the parameters of every pixel, (N, P, H, W), or (N, P, C, H, W) of a softmax; see `PixelModel`."""
        check_class_labels(self, class_labels)
        dtype = self.head.last.gain.dtype
        levels = with_ones(scale_levels(x, num_levels=self.num_levels, dtype=dtype))
        maps = [(self.first_row(levels), self.first_pixel(levels))]
        for resolution, layers in enumerate(self.down):
            if resolution:
                to_rows, to_pixels = self.downsamplings[resolution - 1].children()
                maps.append((to_rows(maps[-1][0]), to_pixels(maps[-1][1])))
            for of_rows, of_pixels in _pairs(layers):
                rows = of_rows(maps[-1][0], None, class_labels)
                maps.append((rows, of_pixels(maps[-1][1], rows, class_labels)))
        rows, pixels = maps.pop()
        for number, layers in enumerate(self.up):
            if number:
                height, width = maps[-1][0].shape[2:]
                to_rows, to_pixels = self.upsamplings[number - 1].children()
                rows = to_rows(rows, height=height, width=width)
                pixels = to_pixels(pixels, height=height, width=width)
            for of_rows, of_pixels in _pairs(layers):
                mirror_rows, mirror_pixels = maps.pop()
                rows = of_rows(rows, mirror_rows, class_labels)
                joined = torch.cat([rows, mirror_pixels], dim=1)
                pixels = of_pixels(pixels, joined, class_labels)
        params: Tensor = self.head(pixels)
        return params

    def stages(self) -> list[Stage]:
        """Return one scan with what sampling computes at each position."""
        channels, height, width = self.image_shape
        plan = Plan(channels, 1, width, num_classes=self.num_classes, condition_channels=1)
        ones = plan.condition
        assert ones is not None
        rows = plan.plane(self.config.hidden_size)
        plan.add(linear(rows, shifted_inputs(self.first_row, plan, ones), None), "row")
        maps = [
            (
                emit_elu(plan, rows, width=_ELU_WIDTH, when="row"),
                self.first_pixel.emit(plan, ones),
            )
        ]
        for resolution, layers in enumerate(self.down):
            if resolution:
                maps.append(self._emit_scaled(plan, self.downsamplings[resolution - 1], maps[-1]))
            for of_rows, of_pixels in _pairs(layers):
                rows_then = of_rows.emit(plan, maps[-1][0], when="row")
                pixels_then = of_pixels.emit(plan, maps[-1][1], (rows_then,))
                maps.append((rows_then, pixels_then))
        now = maps.pop()
        for number, layers in enumerate(self.up):
            if number:
                now = self._emit_scaled(plan, self.upsamplings[number - 1], now)
            for of_rows, of_pixels in _pairs(layers):
                mirror_rows, mirror_pixels = maps.pop()
                rows_then = of_rows.emit(plan, now[0], (mirror_rows,), when="row")
                joined = rows_then, mirror_pixels
                now = rows_then, of_pixels.emit(plan, now[1], joined)
        self.head.emit(plan, now[1])
        dtype = self.head.last.gain.dtype
        return [Stage(plan, 1, height, condition=functools.partial(_ones, dtype=dtype))]

    def _emit_scaled(
        self, plan: Plan, layers: nn.Module, features: tuple[Features, Features]
    ) -> tuple[Features, Features]:
        """Append the layers between two resolutions to a plan."""
        scaled = []
        moments: tuple[When, When] = ("row", "position")
        for layer, each, when in zip(layers.children(), features, moments, strict=True):
            assert isinstance(layer, ShiftedConv2d | ShiftedUpsampling)
            plane = layer.emit(plan, each.plane, when=when)
            scaled.append(emit_elu(plan, plane, width=_ELU_WIDTH, when=when))
        return scaled[0], scaled[1]


def _pairs(layers: nn.Module) -> Iterator[tuple[GatedResidual, GatedResidual]]:
    """Yield the layers of both streams."""
    for pair in layers.children():
        yield cast(tuple[GatedResidual, GatedResidual], tuple(pair.children()))


def _ones(x: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Return the map of ones of images (N, C, H, W), (N, 1, H, W)."""
    return torch.ones_like(x[:, :1], dtype=dtype)
