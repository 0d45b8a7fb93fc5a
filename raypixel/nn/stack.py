"""What the architectures share: layers one after another, their skip connections summed, two 1x1 layers at the end.

Reference: van den Oord et al. 2016a, sec. 3.3 (layer-to-output skip connections) and table 1 (ReLU and 1x1, twice).
The paper does not give the width of skip connections: here each layer's output passes a 1x1 and is summed.
Unlike the paper, the last layer starts at zero: an untrained model gives exactly log2(K) bits/dim.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from raypixel.nn.masked import MaskedConv2d, color_groups
from raypixel.nn.plan import Linear, Plan, Plane, group_slices


class SideInputs(NamedTuple):
    """What a layer may read beside the features: None where the network has no such input.

    Attributes:
        levels: Scaled image, (N, C, H, W).
        class_labels: (N,) int64.
        condition: Conditioning maps, (N, c, H, W).
    """

    levels: Tensor | None = None
    class_labels: Tensor | None = None
    condition: Tensor | None = None


class ResidualStack(nn.Module):
    """Layers, skip connections and the output head.

    A layer's `forward(features, side)` returns the next features, and its `emit(plan, features)` appends it to a plan.
    Features are one map, or a tuple of maps of which the last leads to the output.
    """

    def __init__(
        self,
        make_layer: Callable[[int], nn.Module],
        groups: Tensor,
        *,
        num_layers: int,
        use_skip: bool,
        output_size: int,
        num_channels: int,
        num_params: int,
    ) -> None:
        """Make the layers.

        Args:
            make_layer: Makes the layer of a number, the first being 0; its residual connection is its own.
            groups: Colour group of each channel of a layer's output, ascending, (F,).
            num_layers: How many.
            use_skip: Sum a 1x1 of each layer's output into the input of the output layers.
            output_size: Maps between the two output layers.
            num_channels: Channels C of the image.
            num_params: Parameters P of a sub-pixel.
        """
        super().__init__()
        self.layers = nn.ModuleList(make_layer(index) for index in range(num_layers))
        self.skips = nn.ModuleList(
            MaskedConv2d(groups, groups, kernel_size=1, mask_type="B")
            for _ in range(num_layers if use_skip else 0)
        )
        self.head = OutputHead(
            groups, output_size=output_size, num_channels=num_channels, num_params=num_params
        )

    def forward(self, features: Tensor | tuple[Tensor, ...], side: SideInputs) -> Tensor:
        """Return parameters (N, P, C, H, W) from the features of the first layer."""
        skipped: Tensor | None = None
        for index, layer in enumerate(self.layers):
            features = layer(features, side)
            if self.skips:
                skip = self.skips[index](_last(features))
                skipped = skip if skipped is None else skipped + skip
        output = _last(features)
        params: Tensor = self.head(output if skipped is None else output + skipped)
        return params

    def emit(self, plan: Plan, features: Plane | tuple[Plane, ...]) -> None:
        """Append the layers to a plan; their result is its parameters."""
        skipped: Plane | None = None
        for index, layer in enumerate(self.layers):
            features = layer.emit(plan, features)  # type: ignore[operator]
            if self.skips:
                skip = self.skips[index]
                assert isinstance(skip, MaskedConv2d)
                plus = () if skipped is None else (skipped,)
                skipped = skip.emit(plan, _last(features), plus=plus, is_output=True)
        self.head.emit(plan, _last(features), skipped)


MapT = TypeVar("MapT", Tensor, Plane)


def _last(features: MapT | tuple[MapT, ...]) -> MapT:
    return features[-1] if isinstance(features, tuple) else features


class OutputHead(nn.Module):
    """Map features to the parameters of each sub-pixel: (ReLU, 1x1) twice, the last 1x1 zero at first."""

    def __init__(
        self, groups: Tensor, *, output_size: int, num_channels: int, num_params: int
    ) -> None:
        """Make the layer.

        Args:
            groups: Colour group of each input feature, ascending.
            output_size: Maps between the two 1x1 layers.
            num_channels: Channels C of the image.
            num_params: Parameters P of a sub-pixel.
        """
        super().__init__()
        self.num_channels = num_channels
        num_colors = int(groups[-1]) + 1
        between = color_groups(output_size, num_colors)
        outputs = color_groups(num_channels * num_params, num_colors)
        self.first = MaskedConv2d(groups, between, kernel_size=1, mask_type="B")
        self.last = MaskedConv2d(between, outputs, kernel_size=1, mask_type="B")
        with torch.no_grad():
            for parameter in self.last.parameters():
                parameter.zero_()

    def forward(self, features: Tensor) -> Tensor:
        """Return parameters (N, P, C, H, W) from features (N, F, H, W)."""
        params: Tensor = self.last(self.first(features.relu()).relu())  # (N, C * P, H, W)
        return params.unflatten(1, (self.num_channels, -1)).transpose(1, 2)

    def emit(self, plan: Plan, features: Plane, skipped: Plane | None) -> None:
        """Append the layers to a plan, over the sum of features and skip connections, if there are any."""
        if skipped is not None:
            total = plan.plane(features.size, kind="cell")
            for group, part in enumerate(group_slices(self.first.in_groups, plan.num_groups)):
                target, *plus = (each.at(0, 0, *part) for each in (total, features, skipped))
                empty = self.first.weight.new_zeros(0, part[1] - part[0])
                plan.step(Linear(target, (), empty, plus=tuple(plus)), group, is_output=True)
            features = total
        between = self.first.emit(plan, features, relu=True, is_output=True)
        plan.params = self.last.emit(plan, between, relu=True, is_output=True)
