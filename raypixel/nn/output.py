"""The end of every network: skip connections summed, then two 1x1 layers to the parameters of each sub-pixel.

Reference: van den Oord et al. 2016a, sec. 3.3 (layer-to-output skip connections) and table 1 (ReLU and 1x1, twice).
The paper does not give the width of skip connections: here each layer's output passes a 1x1 and is summed.
Unlike the paper, the last layer starts at zero: an untrained model gives exactly log2(K) bits/dim.
"""

import torch
from torch import Tensor, nn

from raypixel.nn.masked import MaskedConv2d, color_groups
from raypixel.nn.plan import Linear, Plan, Plane, group_slices


class SkipSum(nn.Module):
    """Sum a 1x1 convolution of every layer's output, as the layers run."""

    def __init__(self, groups: Tensor, *, num_layers: int) -> None:
        """Make the 1x1 layers.

        Args:
            groups: Colour group of each channel of a layer's output, (C,).
            num_layers: Layers with a skip connection; 0 for a network without.
        """
        super().__init__()
        self.convolutions = nn.ModuleList(
            MaskedConv2d(groups, groups, kernel_size=1, mask_type="B") for _ in range(num_layers)
        )

    def forward(self, layer: int, output: Tensor, skipped: Tensor | None) -> Tensor | None:
        """Return the sum so far with a layer's output (N, C, H, W) added; None without skip connections."""
        if not self.convolutions:
            return None
        skip: Tensor = self.convolutions[layer](output)
        return skip if skipped is None else skipped + skip

    def emit(self, plan: Plan, layer: int, output: Plane, skipped: Plane | None) -> Plane | None:
        """Append a layer's skip connection to a plan; return the sum so far."""
        if not self.convolutions:
            return None
        convolution = self.convolutions[layer]
        assert isinstance(convolution, MaskedConv2d)
        plus = () if skipped is None else (skipped,)
        return convolution.emit(plan, output, plus=plus, is_output=True)


class OutputHead(nn.Module):
    """Map features to the parameters of each sub-pixel: (ReLU, 1x1) twice, the last 1x1 zero at first."""

    def __init__(
        self,
        groups: Tensor,
        *,
        num_colors: int,
        output_size: int,
        num_channels: int,
        num_params: int,
    ) -> None:
        """Make the layer.

        Args:
            groups: Colour group of each input feature.
            num_colors: Colour groups of the network.
            output_size: Maps between the two 1x1 layers.
            num_channels: Channels C of the image.
            num_params: Parameters P of a sub-pixel.
        """
        super().__init__()
        self.num_channels = num_channels
        between = color_groups(output_size, num_colors)
        outputs = color_groups(num_channels * num_params, num_colors)
        self.layers = nn.Sequential(
            nn.ReLU(),
            MaskedConv2d(groups, between, kernel_size=1, mask_type="B"),
            nn.ReLU(),
            MaskedConv2d(between, outputs, kernel_size=1, mask_type="B"),
        )
        with torch.no_grad():
            for parameter in self.layers[-1].parameters():
                parameter.zero_()

    def forward(self, features: Tensor, skipped: Tensor | None = None) -> Tensor:
        """Return parameters (N, P, C, H, W) from the last layer's features and the sum of skips, if any."""
        if skipped is not None:
            features = features + skipped
        params: Tensor = self.layers(features)  # (N, C * P, H, W)
        return params.unflatten(1, (self.num_channels, -1)).transpose(1, 2)

    def emit(self, plan: Plan, features: Plane, skipped: Plane | None) -> None:
        """Append the layers to a plan; their result is its parameters."""
        _, first, _, last = self.layers
        assert isinstance(first, MaskedConv2d)
        assert isinstance(last, MaskedConv2d)
        if skipped is not None:
            total = plan.plane(features.size, kind="cell")
            for group, part in enumerate(group_slices(first.in_groups, plan.num_groups)):
                target, *plus = (each.at(0, 0, *part) for each in (total, features, skipped))
                empty = first.weight.new_zeros(0, part[1] - part[0])
                plan.step(Linear(target, (), empty, plus=tuple(plus)), group, is_output=True)
            features = total
        between = first.emit(plan, features, relu=True, is_output=True)
        plan.params = last.emit(plan, between, relu=True, is_output=True)
