"""What PixelCNN++ and PixelSNAIL share: the gated residual layer, the first layer of the pixel's stream, and the last layer.

x + a * sigmoid(b), where (a, b) is a convolution of dropout(f(c)), and c a convolution of f(x) plus a 1x1 of f of the
maps that are joined. f is concat_elu in PixelCNN++, elu of (x, -x), twice as wide; in PixelSNAIL it is elu (with concat_elu the
paper's network would have 91M parameters, not 46M).

Reference: Salimans et al. 2017 (arXiv 1701.05517), sec. 2.5; the published code gives what the paper leaves open: the order,
initial scale 0.1 of the last convolution, and a class added before the gate as in van den Oord et al. 2016b.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raypixel.nn.dropout import Dropout
from raypixel.nn.likelihoods import PixelLikelihood
from raypixel.nn.mixtures import DiscretizedLogisticMixture
from raypixel.nn.plan import Elu, Gate, Plan, Plane, When
from raypixel.nn.shifted import Inputs, ShiftedConv2d, kind_of, linear, phase_of


class Features(NamedTuple):
    """A map in a plan, and its elu or concat_elu."""

    plane: Plane
    activated: Plane


def elu(x: Tensor, width: int) -> Tensor:
    """Return elu of x, and of -x where the width is 2, (N, width * F, H, W) from (N, F, H, W)."""
    return F.elu(torch.cat([x, -x], dim=1) if width == 2 else x)


def emit_elu(plan: Plan, plane: Plane, *, width: int, when: When = "position") -> Features:
    """Append `elu` to a plan."""
    activated = plan.plane(width * plane.size, kind=kind_of(when), scale=plane.scale)
    plan.add(Elu(activated.at(), plane.at()), when, phase=phase_of(plane.scale))
    return Features(plane, activated)


class GatedResidual(nn.Module):
    """One gated residual layer."""

    def __init__(
        self,
        channels: int,
        kernel_size: tuple[int, int] = (1, 1),
        *,
        elu_width: int,
        is_centered: bool = False,
        joined_channels: int = 0,
        dropout: float = 0.0,
        num_classes: int = 0,
    ) -> None:
        """Make the layer.

        Args:
            channels: Channels F of its input and output.
            kernel_size: Of both convolutions.
            elu_width: 2 for concat_elu, 1 for elu.
            is_centered: See `ShiftedConv2d`.
            joined_channels: Channels of the maps that are joined, 0 for none.
            dropout: Probability with which training sets a feature between the convolutions to zero.
            num_classes: Classes that are added before the gate, 0 for none.
        """
        super().__init__()
        self.elu_width = elu_width
        self.first = ShiftedConv2d(
            elu_width * channels, channels, kernel_size, is_centered=is_centered
        )
        self.join = (
            ShiftedConv2d(elu_width * joined_channels, channels) if joined_channels else None
        )
        self.dropout = Dropout(dropout)
        self.second = ShiftedConv2d(
            elu_width * channels, 2 * channels, kernel_size, is_centered=is_centered, init_scale=0.1
        )
        self.classes = nn.Embedding(num_classes, 2 * channels) if num_classes else None
        if self.classes is not None:
            nn.init.normal_(self.classes.weight, 0, 0.05)

    def forward(
        self, x: Tensor, joined: Tensor | None = None, class_labels: Tensor | None = None
    ) -> Tensor:
        """Return the next features, (N, F, H, W), from those before and the joined maps."""
        c = self.first(elu(x, self.elu_width))
        if self.join is not None:
            assert joined is not None
            c = c + self.join(elu(joined, self.elu_width))
        maps = self.second(self.dropout(elu(c, self.elu_width)))
        if self.classes is not None:
            maps = maps + self.classes(class_labels)[:, :, None, None]
        content, opening = maps.chunk(2, dim=1)
        gated: Tensor = x + content * opening.sigmoid()
        return gated

    def emit(
        self,
        plan: Plan,
        x: Features,
        joined: tuple[Features, ...] = (),
        *,
        when: When = "position",
    ) -> Features:
        """Append the layer to a plan.

        Args:
            plan: The plan.
            x: Its input.
            joined: The maps that are joined, one after another.
            when: It runs; "row" if all that it reads is finished then.
        """
        also: Inputs = []
        bias = None
        if self.join is not None:
            bias = self.join.bias
            total, start = sum(each.plane.size for each in joined), 0
            weight = self.join.weight().detach()[:, :, 0, 0]  # (F, elu of all, then of all negated)
            for each in joined:
                own = torch.arange(start, start + each.plane.size)
                columns = torch.cat([own + part * total for part in range(self.elu_width)])
                also.append((each.activated.at(), weight[:, columns].t()))
                start += each.plane.size
        c = self.first.emit(plan, x.activated, when=when, also=also, bias=bias)
        hidden = emit_elu(plan, c, width=self.elu_width, when=when).activated
        also = []
        if self.classes is not None:
            assert plan.classes is not None
            also = [(plan.classes.at(), self.classes.weight.detach())]
        maps = self.second.emit(plan, hidden, when=when, also=also)
        scale = x.plane.scale
        result = plan.plane(x.plane.size, kind=kind_of(when), scale=scale)
        gated = Gate(result.at(), maps.at(), is_linear=True, plus=x.plane.at())
        plan.add(gated, when, phase=phase_of(scale))
        return emit_elu(plan, result, width=self.elu_width, when=when)


class FirstLayer(nn.Module):
    """What the stream of the pixel begins with: the row above, and the pixels to the left.

    A 1x3 convolution shifted down by a row plus a 2x1 shifted to the right, over the image and a map of ones.
    """

    def __init__(self, in_channels: int, channels: int, *, elu_width: int) -> None:
        """Make the layer; `in_channels` counts the map of ones, `elu_width` is that of the layers which read it."""
        super().__init__()
        self.elu_width = elu_width
        self.above = ShiftedConv2d(in_channels, channels, (1, 3), is_centered=True, shift=(1, 0))
        self.left = ShiftedConv2d(in_channels, channels, (2, 1), shift=(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, I, H, W) to (N, F, H, W)."""
        y: Tensor = self.above(x) + self.left(x)
        return y

    def emit(self, plan: Plan, ones: Plane) -> Features:
        """Append the layer to a plan, over its levels and the map of ones."""
        size = len(self.left.gain)
        inputs = [*shifted_inputs(self.above, plan, ones), *shifted_inputs(self.left, plan, ones)]
        finished, target = plan.plane(size), plan.plane(size, kind="cell")
        plan.add(linear(finished, [each for each in inputs if each[0].row], None), "row")
        own = [each for each in inputs if not each[0].row]
        plan.add(linear(target, own, None, plus=(finished.at(),)), "position")
        return emit_elu(plan, target, width=self.elu_width)


def shifted_inputs(layer: ShiftedConv2d, plan: Plan, ones: Plane) -> Inputs:
    """Return what a shifted layer over the image and the map of ones reads.

    Its bias is shifted with it, so that it is missing at the border: a weight of the map of ones, which is zero outside.
    """
    of_ones = layer.inputs(ones, column=plan.num_channels)
    down, right = layer.shift
    of_ones.append((ones.at(down, -right), layer.bias.detach()[None]))
    return [*layer.inputs(plan.levels), *of_ones]


class PixelHead(nn.Module):
    """Elu and a 1x1 to the parameters of each pixel; those of a softmax start at zero."""

    def __init__(self, channels: int, likelihood: PixelLikelihood, num_channels: int) -> None:
        super().__init__()
        self.likelihood = likelihood
        is_mixture = isinstance(likelihood, DiscretizedLogisticMixture)
        self.last = ShiftedConv2d(
            channels, likelihood.num_maps(num_channels), init_scale=1.0 if is_mixture else 0.0
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return parameters (N, P, C, H, W) or (N, P, H, W) from features (N, F, H, W)."""
        return self.likelihood.unpack(self.last(F.elu(features)))

    def emit(self, plan: Plan, features: Features) -> None:
        """Append the layer to a plan; its result is its parameters."""
        size = features.plane.size
        weight = self.last.weight().detach()[:, :, 0, 0].t()
        plan.params = plan.plane(weight.shape[1], kind="cell")
        op = linear(plan.params, [(features.activated.at(0, 0, 0, size), weight)], self.last.bias)
        plan.add(op, "position", is_output=True)


def with_ones(levels: Tensor) -> Tensor:
    """Append a map of ones, (N, C + 1, H, W) from (N, C, H, W): what tells a layer where the image ends."""
    return torch.cat([levels, torch.ones_like(levels[:, :1])], dim=1)
