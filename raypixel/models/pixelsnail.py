"""PixelSNAIL: blocks of gated residual layers and causal attention, whole pixels drawn from a mixture.

Each of `num_blocks` blocks has `num_layers` gated residual layers of down-right 2x2 convolutions, which see near pixels, and
one causal attention, which sees all earlier ones: keys and values from the image, the features and the background (the
coordinates), queries from features and background. A gated residual layer joins the features with what attention brought.
The parameters come from the last features by a 1x1. Sampling keeps the keys and values of all rows that attention sees: for
one image num_blocks * num_heads * (key_size + value_size) numbers of each of its pixels, or of `attention_rows` + 1 rows.

Reference: Chen et al. 2018 (arXiv 1712.09763), sec. 3 and 4; 256 filters, 12 blocks of 4 layers, keys of 16 and values of 128 are
the paper's. As in the published code keys, values and queries pass a gated residual layer of 1x1 first.
Options of this code: several heads, attention to some rows only, a Bernoulli distribution for two levels.
"""

import functools
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from raypixel.models.base import WholePixelConfig, WholePixelModel, check_class_labels
from raypixel.models.registry import register
from raypixel.nn.attention import causal_attention
from raypixel.nn.gated_residual import (
    Features,
    FirstLayer,
    GatedResidual,
    PixelHead,
    emit_elu,
    with_ones,
)
from raypixel.nn.masked import scale_levels
from raypixel.nn.plan import Attention, Linear, Plan, Plane, Stage, When
from raypixel.nn.shifted import ShiftedConv2d, linear


@register("pixelsnail")
class PixelSNAIL(WholePixelModel):
    """Predict every pixel from near pixels by convolutions, and from all earlier ones by attention."""

    class Config(WholePixelConfig):
        """Options of PixelSNAIL."""

        kind: Literal["pixelsnail"] = "pixelsnail"
        """Name of the architecture."""
        num_layers: int = Field(2, ge=1)
        """Gated residual layers of each block."""
        num_blocks: int = Field(2, ge=1)
        """Blocks, each with one attention."""
        num_heads: int = Field(1, ge=1)
        """Heads of each attention."""
        key_size: int = Field(16, ge=1)
        """Features of a head's queries and keys."""
        value_size: int = Field(32, ge=1)
        """Features of a head's values."""
        attention_rows: int | None = Field(None, ge=0)
        """Rows above its own that a position attends to; all if null."""

    config: Config

    def __init__(self, config: Config, *, image_shape: tuple[int, int, int], **facts: int) -> None:
        super().__init__(config, image_shape=image_shape, **facts)
        self.first = FirstLayer(image_shape[0] + 1, config.hidden_size, elu_width=1)
        self.blocks = nn.ModuleList(
            AttentionBlock(config, num_channels=image_shape[0], num_classes=self.num_classes)
            for _ in range(config.num_blocks)
        )
        self.head = PixelHead(config.hidden_size, self.likelihood, image_shape[0])

    def forward(self, x: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Return the parameters of every pixel, (N, P, H, W), or (N, P, C, H, W) of a softmax; see `PixelModel`."""
        check_class_labels(self, class_labels)
        dtype = self.head.last.gain.dtype
        levels = scale_levels(x, num_levels=self.num_levels, dtype=dtype)
        background = _coordinates(levels)
        features: Tensor = self.first(with_ones(levels))
        for block in self.blocks:
            features = block(features, levels, background, class_labels)
        params: Tensor = self.head(features)
        return params

    def stages(self) -> list[Stage]:
        """Return one scan with what sampling computes at each position."""
        channels, height, width = self.image_shape
        plan = Plan(channels, 1, width, num_classes=self.num_classes, condition_channels=3)
        assert plan.condition is not None
        ones, background = plan.plane(1), plan.plane(2)
        for plane, start in ((ones, 0), (background, 1)):
            source = plan.condition.at(0, 0, start, start + plane.size)
            plan.add(linear(plane, [], None, plus=(source,)), "row")
        features = self.first.emit(plan, ones)
        seen = self.config.attention_rows
        num_rows = height if seen is None else min(seen + 1, height)
        for block in self.blocks:
            assert isinstance(block, AttentionBlock)
            features = block.emit(plan, features, background, num_rows=num_rows)
        self.head.emit(plan, features)
        dtype = self.head.last.gain.dtype
        return [Stage(plan, 1, height, condition=functools.partial(_border, dtype=dtype))]


class AttentionBlock(nn.Module):
    """Gated residual layers, one causal attention, and the layer that joins the two."""

    def __init__(self, config: PixelSNAIL.Config, *, num_channels: int, num_classes: int) -> None:
        super().__init__()
        size, heads = config.hidden_size, config.num_heads
        plain: dict[str, Any] = {"elu_width": 1, "dropout": config.dropout}
        options: dict[str, Any] = {**plain, "num_classes": num_classes}
        self.num_heads, self.attention_rows = heads, config.attention_rows
        self.sizes = [heads * config.key_size, heads * config.value_size]
        self.layers = nn.ModuleList(
            GatedResidual(size, (2, 2), **options) for _ in range(config.num_layers)
        )
        known, asking = num_channels + size + 2, size + 2
        self.content = GatedResidual(known, **plain)
        self.keys_and_values = ShiftedConv2d(known, sum(self.sizes))
        self.question = GatedResidual(asking, **plain)
        self.query = ShiftedConv2d(asking, self.sizes[0])
        self.join = GatedResidual(size, joined_channels=self.sizes[1], **options)

    def forward(
        self, features: Tensor, levels: Tensor, background: Tensor, class_labels: Tensor | None
    ) -> Tensor:
        """Return the next features, (N, F, H, W)."""
        for layer in self.layers:
            features = layer(features, None, class_labels)
        content = self.content(torch.cat([levels, features, background], dim=1))
        keys, values = self.keys_and_values(content).split(self.sizes, dim=1)
        query = self.query(self.question(torch.cat([features, background], dim=1)))
        mixed = causal_attention(
            query, keys, values, num_heads=self.num_heads, num_rows=self.attention_rows
        )
        joined: Tensor = self.join(features, mixed, class_labels)
        return joined

    def emit(self, plan: Plan, features: Features, background: Plane, *, num_rows: int) -> Features:
        """Append the block to a plan; keys and values, which read the pixel itself, when its levels are known."""
        for layer in self.layers:
            assert isinstance(layer, GatedResidual)
            features = layer.emit(plan, features)
        asked = _together(plan, [features.plane, background])
        question = self.question.emit(plan, emit_elu(plan, asked, width=1))
        query = self.query.emit(plan, question.plane)

        kept = plan.plane(sum(self.sizes))
        kept.rows = num_rows
        mixed = plan.plane(self.sizes[1], kind="cell")
        split = self.sizes[0]
        keys, values = kept.at(0, 0, 0, split), kept.at(0, 0, split)
        plan.add(Attention(mixed.at(), query.at(), keys, values, self.num_heads), "position")
        known = _together(plan, [plan.levels, features.plane, background], when="end")
        known_elu = emit_elu(plan, known, width=1, when="end")
        content = self.content.emit(plan, known_elu, when="end").plane
        last = self.keys_and_values
        plan.add(linear(kept, last.inputs(content), last.bias), "end")
        attended = emit_elu(plan, mixed, width=1)
        return self.join.emit(plan, features, (attended,))


def _together(plan: Plan, planes: list[Plane], *, when: When = "position") -> Plane:
    """Append the concatenation of planes to a plan."""
    whole = plan.plane(sum(plane.size for plane in planes), kind="cell")
    start = 0
    for plane in planes:
        target = whole.at(0, 0, start, start + plane.size)
        plan.add(Linear(target, (), torch.zeros(0, plane.size), plus=(plane.at(),)), when)
        start += plane.size
    return whole


def _coordinates(x: Tensor) -> Tensor:
    """Return the row and the column of every pixel of images (N, .., H, W), in [-0.5, 0.5), (N, 2, H, W)."""
    height, width = x.shape[2:]
    rows, columns = (
        torch.arange(size, device=x.device, dtype=x.dtype) / size - 0.5 for size in (height, width)
    )
    maps = torch.stack([rows[:, None].expand(-1, width), columns.expand(height, -1)])
    return maps.expand(len(x), -1, -1, -1)


def _border(x: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Return the map of ones and the coordinates of images (N, C, H, W), (N, 3, H, W)."""
    x = x[:, :1].to(dtype)
    return torch.cat([torch.ones_like(x), _coordinates(x)], dim=1)
