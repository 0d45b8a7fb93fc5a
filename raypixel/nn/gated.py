"""The gated layer of Gated PixelCNN: a vertical and a horizontal stack, each tanh(content) * sigmoid(gate).

Vertical features at a row hold rows above it only: the first layer shifts, by leaving the current row out of its
kernel, and no later layer shifts again. Horizontal features hold the current row up to the pixel, and receive the
vertical ones at every layer, so that together they see a full rectangle without a blind spot.
Vertical features and the 1x1 into the horizontal stack are not masked: all colours of the rows above come earlier. The
two halves of the horizontal maps are each split by colour on their own.

Reference: van den Oord et al. 2016b, sec. 2.1-2.3, eq. 2-4, fig. 2.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raypixel.nn.dropout import Dropout
from raypixel.nn.masked import MaskedConv2d, MaskType, unmasked
from raypixel.nn.norm import GroupedLayerNorm, Normalization, emit_norm, make_norm
from raypixel.nn.plan import Gate, Linear, Plan, Plane, Tap, group_slices, in_group_order, pick
from raypixel.nn.stack import SideInputs


def gate(maps: Tensor) -> Tensor:
    """Return tanh(first half) * sigmoid(second half), (N, p, H, W) from (N, 2p, H, W)."""
    content, opening = maps.chunk(2, dim=1)
    return content.tanh() * opening.sigmoid()


class VerticalConv2d(nn.Module):
    """Convolve rows above (type A), or rows above and the whole current row (type B); nothing is masked."""

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel_size: int, mask_type: MaskType
    ) -> None:
        """Make the layer.

        Args:
            in_channels: Channels of the input.
            out_channels: Channels of the output.
            kernel_size: Odd width k of the kernel; it covers k // 2 rows above.
            mask_type: "A" leaves the current row out (first layer only), "B" includes it.
        """
        super().__init__()
        self.side = kernel_size // 2
        self.skipped_rows = 1 if mask_type == "A" else 0
        rows = self.side + 1 - self.skipped_rows
        self.convolution = nn.Conv2d(in_channels, out_channels, (rows, kernel_size))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (N, I, H, W) to (N, O, H, W)."""
        x = F.pad(x, (self.side, self.side, self.side, -self.skipped_rows))
        y: Tensor = self.convolution(x)
        return y

    def over_row(self, plan: Plan, source: Plane) -> Plane:
        """Append the layer to a plan, over each row that begins."""
        weight = self.convolution.weight
        target = plan.plane(len(weight))
        taps, weights = [], []
        for row in range(weight.shape[2]):
            for column in range(weight.shape[3]):
                taps.append(source.at(self.side - row, column - self.side))
                weights.append(pick(weight[:, :, row, column], range(target.size)))
        assert self.convolution.bias is not None
        bias = self.convolution.bias.detach()
        plan.over_row(Linear(target.at(), tuple(taps), torch.cat(weights), bias))
        return target


class GatedLayer(nn.Module):
    """One layer of both stacks; residual on the horizontal stack only."""

    def __init__(
        self,
        in_groups: Tensor,
        groups: Tensor,
        *,
        kernel_size: int,
        mask_type: MaskType,
        norm: Normalization,
        use_residual: bool,
        dropout: float = 0.0,
        num_classes: int = 0,
        condition_channels: int = 0,
    ) -> None:
        """Make the layer.

        Args:
            in_groups: Colour group of each channel of the horizontal input; the vertical one is as wide.
            groups: Colour group of each of the p output features of the horizontal stack.
            kernel_size: Odd size n: vertical (n // 2 + 1) x n, horizontal 1 x (n // 2 + 1).
            mask_type: "A" for the first layer, which reads the image, "B" for all others.
            norm: Layer normalization of both inputs, per colour group on the horizontal stack, or none.
            use_residual: Add the horizontal input to the horizontal output.
            dropout: Probability with which training sets a gated horizontal feature to zero.
            num_classes: Classes added to both halves of both stacks, 0 for none.
            condition_channels: Maps of a conditioning input, 0 for none.
        """
        super().__init__()
        self.use_residual = use_residual
        num_inputs, size = len(in_groups), len(groups)
        halves = groups.repeat(2)
        one_group = torch.zeros(num_inputs, dtype=torch.int64, device="cpu")
        self.vertical_norm = make_norm(norm, one_group)
        self.horizontal_norm = make_norm(norm, in_groups)
        self.vertical = VerticalConv2d(
            num_inputs, 2 * size, kernel_size=kernel_size, mask_type=mask_type
        )
        self.vertical_to_horizontal = nn.Conv2d(2 * size, 2 * size, 1)
        self.horizontal = MaskedConv2d(
            in_groups, halves, kernel_size=kernel_size, mask_type=mask_type, rows_above=0
        )
        self.classes = nn.Embedding(num_classes, 4 * size) if num_classes else None
        self.condition = unmasked(condition_channels, 4 * size)
        self.dropout = Dropout(dropout)
        self.output = MaskedConv2d(groups, groups, kernel_size=1, mask_type="B")

    def forward(self, features: tuple[Tensor, Tensor], side: SideInputs) -> tuple[Tensor, Tensor]:
        """Return the next vertical and horizontal features, (N, p, H, W) each, from those before, (N, I, H, W)."""
        vertical, horizontal = features
        above = self.vertical(self.vertical_norm(vertical))  # (N, 2p, H, W)
        left = self.horizontal(self.horizontal_norm(horizontal)) + self.vertical_to_horizontal(
            above
        )
        added = self._added(side)
        if added is not None:
            above, left = above + added[:, 0], left + added[:, 1]
        output: Tensor = self.output(self.dropout(gate(left)))
        return gate(above), horizontal + output if self.use_residual else output

    def _added(self, side: SideInputs) -> Tensor | None:
        """Return what class and condition add to the 2p maps of both stacks, (N, 2, 2p, H or 1, W or 1)."""
        added = None
        if self.classes is not None:
            added = self.classes(side.class_labels)[:, :, None, None]
        if self.condition is not None:
            maps = self.condition(side.condition)
            added = maps if added is None else added + maps
        return None if added is None else added.unflatten(1, (2, -1))

    def emit(self, plan: Plan, features: tuple[Plane, Plane]) -> tuple[Plane, Plane]:
        """Append the layer to a plan: the vertical stack over each row that begins, the horizontal one at each position."""
        vertical, horizontal = features
        size = len(self.output.out_groups)
        if isinstance(self.vertical_norm, GroupedLayerNorm):
            normed = plan.plane(vertical.size)
            plan.over_row(*self.vertical_norm.ops(normed, vertical))
        else:
            normed = vertical
        above = self.vertical.over_row(plan, normed)
        added, columns = self._added_taps(plan)
        from_above, passed = plan.plane(2 * size), plan.plane(size)
        packed = in_group_order(self.horizontal.out_groups, plan.num_groups)
        down = self.vertical_to_horizontal
        assert down.bias is not None
        weight = torch.cat(
            [pick(down.weight[:, :, 0, 0], packed), columns[:, 2 * size :][:, packed]]
        )
        plan.over_row(
            Linear(from_above.at(), (above.at(), *added), weight, down.bias.detach()[packed])
        )
        if added:
            total = plan.plane(2 * size)
            plan.over_row(
                Linear(total.at(), added, columns[:, : 2 * size].contiguous(), plus=(above.at(),))
            )
            above = total
        plan.over_row(Gate(passed.at(), above.at()))

        normed = emit_norm(self.horizontal_norm, plan, horizontal)
        maps = self.horizontal.emit(plan, normed, plus=(from_above,))
        opened = plan.plane(size, kind="cell")
        halves = self.horizontal.packed(plan)
        for group, part in enumerate(group_slices(self.output.in_groups, plan.num_groups)):
            plan.step(Gate(opened.at(0, 0, *part), maps.at(0, 0, *halves[group])), group)
        plus = (horizontal,) if self.use_residual else ()
        return passed, self.output.emit(plan, opened, plus=plus)

    def _added_taps(self, plan: Plan) -> tuple[tuple[Tap, ...], Tensor]:
        """Return class and condition as taps, with their weights to the maps of both stacks, (inputs, 4p)."""
        taps: list[Tap] = []
        weights = [self.output.weight.new_zeros(0, 4 * len(self.output.out_groups))]
        if self.classes is not None:
            assert plan.classes is not None
            taps.append(plan.classes.at())
            weights.append(self.classes.weight.detach())
        if self.condition is not None:
            assert plan.condition is not None
            taps.append(plan.condition.at())
            weights.append(self.condition.weight.detach()[:, :, 0, 0].t())
        return tuple(taps), torch.cat(weights)
