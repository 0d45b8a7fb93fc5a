"""Masked convolutions and the colour groups that every mask is built from.

Every channel of a feature map belongs to a colour group: group g holds features for predicting colour g, so it
may depend on colours 0 .. g-1 of the current pixel (and, after the first layer, on group g itself). One function,
`causal_mask`, builds every mask from the groups of its inputs and outputs; widths need not divide by the number
of colours. A model that does not condition on the colours of the current pixel has one group.

Reference: van den Oord et al. 2016a, sec. 3.4 and fig. 2 (masks A and B).
Unlike the paper, which multiplies a full kernel by a mask, the rows below the centre are neither stored nor
computed: the kernel is (k // 2 + 1) x k and the input is padded on top. That is a third (k = 3) to almost a half
(k = 7) of the work. A kernel of one row has no columns right of its centre either.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raypixel.nn.plan import Linear, Plan, Plane, Tap, by_group, group_slices, in_group_order, pick

MaskType = Literal["A", "B"]


def color_groups(num_channels: int, num_colors: int) -> Tensor:
    """Assign channels to colours in contiguous blocks whose sizes differ by at most one.

    Returns:
        Group of each channel, in [0, num_colors - 1], (num_channels,), int64.

    Raises:
        ValueError: There are fewer channels than colours, so that a colour would have none.
    """
    if num_channels < num_colors:
        raise ValueError(
            f"features of a layer must be at least one for each of {num_colors} colors, got {num_channels}"
        )
    return torch.arange(num_channels, device="cpu") * num_colors // num_channels


def causal_mask(
    out_groups: Tensor, in_groups: Tensor, *, kernel_size: tuple[int, int], mask_type: MaskType
) -> Tensor:
    """Build the mask of a kernel whose last row is the current row and whose middle column is the current pixel.

    Rows above and pixels to the left are open. At the current pixel an output of group g sees inputs of groups
    below g (mask A) or up to g (mask B).

    Args:
        out_groups: Colour group of each output channel, (O,).
        in_groups: Colour group of each input channel, (I,).
        kernel_size: Rows and columns of the cropped kernel; the number of columns must be odd.
        mask_type: "A" excludes the current dimension (first layer only), "B" includes it.

    Returns:
        Zeros and ones, (O, I, rows, columns), float32.

    Raises:
        ValueError: The number of columns is even.
    """
    rows, columns = kernel_size
    if columns % 2 == 0:
        raise ValueError(f"kernel_size must have an odd number of columns, got {columns}")
    mask = torch.ones(len(out_groups), len(in_groups), rows, columns)
    center = columns // 2
    mask[:, :, -1, center + 1 :] = 0
    outputs, inputs = out_groups.to(mask.device)[:, None], in_groups.to(mask.device)[None, :]
    mask[:, :, -1, center] = (inputs < outputs if mask_type == "A" else inputs <= outputs).float()
    return mask


class MaskedConv2d(nn.Module):
    """Convolve so that a position sees only rows above, pixels to its left, and earlier colours of itself."""

    mask: Tensor

    def __init__(
        self,
        in_groups: Tensor,
        out_groups: Tensor,
        *,
        kernel_size: int,
        mask_type: MaskType,
        rows_above: int | None = None,
    ) -> None:
        """Make the layer.

        Args:
            in_groups: Colour group of each input channel, (I,).
            out_groups: Colour group of each output channel, (O,).
            kernel_size: Odd size k of the full kernel; (k // 2 + 1) x k of it is stored.
            mask_type: "A" for the first layer of a network, "B" for all others.
            rows_above: Rows above the current one that the kernel covers; k // 2 if None, 0 to read one row only.
        """
        super().__init__()
        self.side = kernel_size // 2
        self.rows_above = self.side if rows_above is None else rows_above
        self.side_right = self.side if self.rows_above else 0
        shape = (self.rows_above + 1, kernel_size)
        mask = causal_mask(out_groups, in_groups, kernel_size=shape, mask_type=mask_type)
        mask = mask[..., : self.side + 1 + self.side_right].contiguous()
        self.register_buffer("mask", mask, persistent=False)
        latest, earliest = int(in_groups.max()), int(out_groups.min())
        sees_all = latest < earliest if mask_type == "A" else latest <= earliest
        self.is_open = sees_all and not self.side_right
        self.mask_type = mask_type
        self.in_groups, self.out_groups = in_groups, out_groups
        self.weight = nn.Parameter(torch.empty_like(mask))
        self.bias = nn.Parameter(torch.empty(len(out_groups)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights uniformly in +-1/sqrt(fan-in), counting only what the mask leaves open."""
        fan_in = self.mask.flatten(1).sum(1).clamp(min=1)
        bound = 1 / fan_in.sqrt()
        with torch.no_grad():
            self.weight.uniform_(-1, 1).mul_(bound[:, None, None, None])
            self.bias.uniform_(-1, 1).mul_(bound)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (N, I, H, W) to (N, O, H, W)."""
        if self.side:
            x = F.pad(x, (self.side, self.side_right, self.rows_above, 0))
        weight = self.weight if self.is_open else self.weight * self.mask
        return F.conv2d(x, weight, self.bias)

    def emit(
        self,
        plan: Plan,
        source: Plane,
        *,
        relu: bool = False,
        plus: tuple[Plane, ...] = (),
        is_output: bool = False,
    ) -> Plane:
        """Append the layer to a plan: rows above when a row begins, the current row at each position.

        Args:
            plan: The plan.
            source: The layer's input.
            relu: Rectify the input.
            plus: Planes as large as the result that are added to it.
            is_output: Only the parameters depend on the result.

        Returns:
            The result, its channels in the order of their groups.
        """
        if self.rows_above:
            plus = (*plus, self._emit_above(plan, source, relu=relu))
        target = plan.plane(len(self.out_groups), kind="cell")
        for group, (start, stop) in enumerate(self.packed(plan)):
            added = tuple(plane.at(0, 0, start, stop) for plane in plus)
            op = self.at_position(plan, source, target, group, relu=relu, plus=added)
            plan.step(op, group, is_output=is_output)
        return target

    def packed(self, plan: Plan, num_outputs: int | None = None) -> list[tuple[int, int]]:
        """Return where each group's outputs stand when all are in the order of their groups, (start, stop)."""
        groups = self.out_groups[:num_outputs].sort().values
        return group_slices(groups, plan.num_groups)

    def at_position(
        self,
        plan: Plan,
        source: Plane,
        target: Plane,
        group: int,
        *,
        num_outputs: int | None = None,
        relu: bool = False,
        plus: tuple[Tap, ...] = (),
        also: tuple[Tap, Tensor] | None = None,
    ) -> Linear:
        """Return one group's part of the current row of the kernel, as an operation.

        Args:
            plan: The plan.
            source: The layer's input.
            target: Where the packed outputs go.
            group: Which outputs.
            num_outputs: Use the layer's first outputs only.
            relu: Rectify the input.
            plus: What is added to the result.
            also: One more input with its weights (outputs, inputs).
        """
        outputs = by_group(self.out_groups[:num_outputs], plan.num_groups)[group]
        start, stop = self.packed(plan, num_outputs)[group]
        seen = group_slices(self.in_groups, plan.num_groups)[group][self.mask_type == "B"]
        weight = self.weight * self.mask
        taps = [source.at(0, column - self.side) for column in range(self.side)]
        weights = [pick(weight[:, :, -1, column], outputs) for column in range(self.side)]
        if seen:
            taps.append(source.at(0, 0, 0, seen))
            weights.append(pick(weight[:, :seen, -1, self.side], outputs))
        if also is not None:
            taps.append(also[0])
            weights.append(pick(also[1], outputs))
        return Linear(
            target.at(0, 0, start, stop),
            tuple(taps),
            torch.cat(weights) if weights else self.weight.new_zeros(0, len(outputs)),
            None if self.rows_above else self.bias.detach()[outputs],
            plus,
            relu,
        )

    def _emit_above(self, plan: Plan, source: Plane, *, relu: bool) -> Plane:
        """Append the rows of the kernel above the current one, and the bias."""
        outputs = in_group_order(self.out_groups, plan.num_groups)
        weight = self.weight * self.mask
        above = plan.plane(len(outputs))
        taps, weights = [], []
        for row in range(self.rows_above):
            for column in range(weight.shape[-1]):
                taps.append(source.at(self.rows_above - row, column - self.side))
                weights.append(pick(weight[:, :, row, column], outputs))
        bias = self.bias.detach()[outputs]
        plan.over_row(Linear(above.at(), tuple(taps), torch.cat(weights), bias, relu=relu))
        return above

    def extra_repr(self) -> str:
        """Describe the layer in `print(model)`."""
        outputs, inputs, rows, _ = self.mask.shape
        rows_above = "" if rows - 1 == self.side else f", rows_above={rows - 1}"
        return f"{inputs}, {outputs}, kernel_size={2 * self.side + 1}{rows_above}"


def unmasked(in_channels: int, out_channels: int) -> nn.Conv2d | None:
    """Make a 1x1 layer for maps that no position needs to be kept from, None where there are no such maps."""
    return nn.Conv2d(in_channels, out_channels, 1, bias=False) if in_channels else None


def scale_levels(x: Tensor, *, num_levels: int, dtype: torch.dtype) -> Tensor:
    """Scale integer levels in [0, K-1] to [-1, 1], channels last in memory (faster convolutions)."""
    scaled = x.to(dtype) * (2.0 / (num_levels - 1)) - 1.0
    return scaled.contiguous(memory_format=torch.channels_last)
