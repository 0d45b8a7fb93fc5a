"""Layer normalization that keeps colours apart.

Normalizing over all channels of a colour image mixes B into the statistics that R is divided by: a leak. Each
colour group is normalized on its own, over its channels, at each position.

Reference: Ba et al. 2016 (arXiv 1607.06450); course report D puts it before each residual block.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raypixel.nn.plan import Norm, Plan, Plane

Normalization = Literal["none", "layer"]


class GroupedLayerNorm(nn.Module):
    """Normalize each position over the channels of each colour group, then scale and shift by channel."""

    def __init__(self, groups: Tensor) -> None:
        """Make the layer.

        Args:
            groups: Colour group of each channel, ascending, (C,).
        """
        super().__init__()
        self.group_sizes = torch.bincount(groups).tolist()
        self.weight = nn.Parameter(torch.ones(len(groups)))
        self.bias = nn.Parameter(torch.zeros(len(groups)))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (N, C, H, W)."""
        x = x.permute(0, 2, 3, 1)  # (N, H, W, C): free for channels-last memory
        parts = zip(
            x.split(self.group_sizes, dim=-1),
            self.weight.split(self.group_sizes),
            self.bias.split(self.group_sizes),
            strict=True,
        )
        normalized = [F.layer_norm(part, part.shape[-1:], w, b) for part, w, b in parts]
        x = normalized[0] if len(normalized) == 1 else torch.cat(normalized, dim=-1)
        return x.permute(0, 3, 1, 2)

    def ops(self, target: Plane, source: Plane) -> list[Norm]:
        """Return the operation of each colour group, from one plane to another."""
        ops, start = [], 0
        for size in self.group_sizes:
            stop = start + size
            weight, bias = self.weight.detach()[start:stop], self.bias.detach()[start:stop]
            ops.append(
                Norm(target.at(0, 0, start, stop), source.at(0, 0, start, stop), weight, bias)
            )
            start = stop
        return ops

    def emit(self, plan: Plan, source: Plane) -> Plane:
        """Append the layer to a plan, each group in its sub-step."""
        target = plan.plane(source.size, kind="cell")
        for group, op in enumerate(self.ops(target, source)):
            plan.step(op, group)
        return target


def make_norm(norm: Normalization, groups: Tensor) -> nn.Module:
    """Make the normalization of features of these groups, or a layer that does nothing."""
    return GroupedLayerNorm(groups) if norm == "layer" else nn.Identity()


def emit_norm(norm: nn.Module, plan: Plan, source: Plane) -> Plane:
    """Append a layer that is a `GroupedLayerNorm` or does nothing."""
    return norm.emit(plan, source) if isinstance(norm, GroupedLayerNorm) else source
