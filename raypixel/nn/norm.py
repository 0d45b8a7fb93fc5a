"""Layer normalization that keeps colours apart.

Normalizing over all channels of a colour image mixes B into the statistics that R is divided by: a leak. Each
colour group is normalized on its own, over its channels, at each position.

Reference: Ba et al. 2016 (arXiv 1607.06450); course report D puts it before each residual block.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
