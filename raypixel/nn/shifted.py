"""Weight-normalized convolutions that are causal by what they are padded with, not by a mask.

A kernel covers rows above and the current row; centered, it reads columns on both sides (the stream of rows above), else columns
to the left and the current one (the stream of the pixel). Shifted by a row, or by a column, the first layer leaves the pixel
itself out; nothing after it needs to.

A layer's weight is gain * direction / |direction|, per output. `initialize` runs a network once on the first batch of a training
and sets each gain and bias so that its outputs have mean 0 and the layer's `init_scale` as deviation.

Reference: Salimans et al. 2017 (arXiv 1701.05517), sec. 2.5 and fig. 2; weight normalization: Salimans and Kingma 2016
(arXiv 1602.07868), sec. 2 and 3. Directions are drawn from N(0, 0.05) as in the published code.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raypixel.nn.plan import EVERYWHERE, Kind, Linear, Phase, Plan, Plane, Tap, When

Inputs = list[tuple[Tap, Tensor]]
"""Taps with their weights, (channels of the tap, outputs)."""


class WeightNormalized(nn.Module):
    """Direction, gain and bias of a layer, and how data set the last two."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        *,
        init_scale: float,
    ) -> None:
        """Make the parameters.

        Args:
            in_channels: Channels I of the input.
            out_channels: Channels O of the output.
            kernel_size: Rows and columns.
            init_scale: Deviation of the outputs after initialization by data, which leaves a layer of 0 as it is: at zero.
        """
        super().__init__()
        self.init_scale = init_scale
        self.reduce: Callable[[Tensor], Tensor] | None = None  # while data initialize the layer
        self.direction = nn.Parameter(torch.empty(out_channels, in_channels, *kernel_size))
        self.gain = nn.Parameter(torch.full((out_channels,), float(init_scale)))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        with torch.no_grad():
            self.direction.normal_(0, 0.05)

    @property
    def is_untrained(self) -> bool:
        """Whether gain and bias are what they were made with."""
        has_gain = ((self.gain - self.init_scale).abs() < 1e-6).all()  # of any floating type
        return bool(has_gain) and not self.bias.any()

    def weight(self) -> Tensor:
        """Return the weight, (O, I, rows, columns)."""
        norm = self.direction.flatten(1).norm(dim=1)
        return self.direction * (self.gain / norm)[:, None, None, None]

    def biased(self, y: Tensor) -> Tensor:
        """Add the bias to (N, O, H, W); when data initialize the layer, set gain and bias first."""
        if self.reduce is not None and self.init_scale:
            count = torch.full_like(self.gain, y.numel() / y.shape[1])
            sums = (count, y.sum((0, 2, 3)), y.square().sum((0, 2, 3)))
            count, mean, square = self.reduce(torch.stack(sums).double())
            mean, square = mean / count, square / count
            scale = self.init_scale / (square - mean.square()).clamp(min=0).add(1e-10).sqrt()
            with torch.no_grad():
                self.gain.mul_(scale)
                self.bias.copy_(-mean * scale)
            y = y * scale.to(y)[:, None, None]
        return y + self.bias[:, None, None]


class ShiftedConv2d(WeightNormalized):
    """Convolve so that a position sees rows above it and its own row, up to itself where the kernel is not centered."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int] = (1, 1),
        *,
        is_centered: bool = False,
        stride: int = 1,
        shift: tuple[int, int] = (0, 0),
        init_scale: float = 1.0,
    ) -> None:
        """Make the layer.

        Args:
            in_channels: Channels I of the input.
            out_channels: Channels O of the output.
            kernel_size: Rows and columns; the last row is the position's own.
            is_centered: The middle column is the position's own, else the last one.
            stride: The output has every stride-th row and column, from the first on.
            shift: Rows down and columns to the right by which the output is shifted; zeros come in.
            init_scale: Deviation of the outputs after initialization by data.
        """
        super().__init__(in_channels, out_channels, kernel_size, init_scale=init_scale)
        rows, columns = kernel_size
        self.left = columns // 2 if is_centered else columns - 1
        self.padding = (self.left, columns - 1 - self.left, rows - 1, 0)
        self.stride, self.shift = stride, shift

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (N, I, H, W) to (N, O, ceil(H / stride), ceil(W / stride))."""
        if any(self.padding):
            x = F.pad(x, self.padding)
        if self.reduce is None:
            y = F.conv2d(x, self.weight(), self.bias, stride=self.stride)
        else:
            y = self.biased(F.conv2d(x, self.weight(), stride=self.stride))
        down, right = self.shift
        return F.pad(y, (right, -right, down, -down)) if down or right else y

    def inputs(self, source: Plane, *, of_row: bool | None = None, column: int = 0) -> Inputs:
        """Return what one position reads.

        Args:
            source: The input.
            of_row: The current row only, or the rows above only; both if None.
            column: First channel of the source's among the layer's inputs.
        """
        weight = self.weight().detach()[:, column : column + source.size]
        rows = weight.shape[2]
        return [
            (
                source.at(rows - 1 - i + self.shift[0], j - self.left - self.shift[1]),
                weight[:, :, i, j].t(),
            )
            for i in range(rows)
            for j in range(weight.shape[3])
            if of_row is None or of_row == (i == rows - 1 and not self.shift[0])
        ]

    def emit(
        self,
        plan: Plan,
        source: Plane,
        *,
        when: When = "position",
        also: Inputs | None = None,
        bias: Tensor | None = None,
    ) -> Plane:
        """Append the layer to a plan.

        Args:
            plan: The plan.
            source: The input.
            when: "row" if all that it reads, through `source` too, is finished then. Otherwise the kernel's rows above run over
                the row that begins, and its own row when asked.
            also: Further inputs of the position.
            bias: Added beside the layer's own.
        """
        phase = phase_of(source.scale * self.stride)
        size = len(self.gain)
        total = self.bias if bias is None else self.bias + bias
        also = also or []
        if when == "row":
            target = plan.plane(size, scale=phase.every)
            plan.add(linear(target, [*self.inputs(source), *also], total), when, phase=phase)
            return target
        target = plan.plane(size, kind="cell", scale=phase.every)
        own = [*self.inputs(source, of_row=True), *also]
        if above := self.inputs(source, of_row=False):
            finished = plan.plane(size, scale=phase.every)
            plan.add(linear(finished, above, total), "row", phase=phase)
            op = linear(target, own, None, plus=(finished.at(),))
        else:
            op = linear(target, own, total)
        plan.add(op, when, phase=phase)
        return target


class ShiftedUpsampling(WeightNormalized):
    """Convolve transposed with stride 2, and cut the result so that a position sees what its cell of the small map sees."""

    def __init__(self, channels: int, *, is_centered: bool) -> None:
        """Make the layer; centered, the kernel is 2x3 and reads the next cell too, else 2x2."""
        super().__init__(channels, channels, (2, 3 if is_centered else 2), init_scale=1.0)
        self.is_centered = is_centered

    def forward(self, x: Tensor, *, height: int, width: int) -> Tensor:
        """Map (N, O, ceil(height / 2), ceil(width / 2)) to (N, O, height, width)."""
        plain = self.reduce is None
        y = F.conv_transpose2d(
            x,
            self.weight().transpose(0, 1),
            self.bias if plain else None,
            stride=2,
            padding=(0, 1) if self.is_centered else 0,
            output_padding=(0, 1) if self.is_centered else 0,
        )[..., :height, :width]
        return y if plain else self.biased(y)

    def emit(self, plan: Plan, source: Plane, *, when: When) -> Plane:
        """Append the layer to a plan, one operation for each place of a position in its cell."""
        source.kind = "row"  # it is read at the cell's other positions too
        weight, scale = self.weight().detach(), source.scale // 2
        target = plan.plane(len(self.gain), kind=kind_of(when), scale=scale)
        for i in range(2):
            for j in range(2):
                reads = [(0, j)]  # offset of the cell, column of the kernel
                if self.is_centered:
                    reads = [(1, 0), (0, 2)] if j else [(0, 1)]
                inputs = [(source.at(0, offset), weight[:, :, i, k].t()) for offset, k in reads]
                op = linear(target, inputs, self.bias)
                plan.add(op, when, phase=Phase(source.scale, i * scale, j * scale))
        return target


def initialize(
    network: nn.Module, run: Callable[[], object], reduce: Callable[[Tensor], Tensor]
) -> None:
    """Set gains and biases of those layers of a network by data that are weight-normalized and untrained.

    Args:
        network: Any network; one without such layers is left as it is, and not run.
        run: Runs the network over this worker's share of a batch.
        reduce: Sums a tensor over the workers.
    """
    layers = [
        each
        for each in network.modules()
        if isinstance(each, WeightNormalized) and each.is_untrained
    ]
    for layer in layers:
        layer.reduce = reduce
    try:
        with torch.no_grad():
            if layers:
                run()
    finally:
        for layer in layers:
            layer.reduce = None


def linear(
    target: Plane, inputs: Inputs, bias: Tensor | None, *, plus: tuple[Tap, ...] = ()
) -> Linear:
    """Return the operation that sums weighted inputs."""
    weights = [weight for _, weight in inputs] or [torch.zeros(0, target.size)]
    taps = tuple(tap for tap, _ in inputs)
    return Linear(
        target.at(),
        taps,
        torch.cat(weights).contiguous(),
        None if bias is None else bias.detach(),
        plus,
    )


def phase_of(scale: int) -> Phase:
    """Return where a map of a scale has cells."""
    return Phase(scale) if scale > 1 else EVERYWHERE


def kind_of(when: When) -> Kind:
    """Return what is kept of a map that no other position reads: a row of it if all of a row is computed together."""
    return "row" if when == "row" else "cell"
