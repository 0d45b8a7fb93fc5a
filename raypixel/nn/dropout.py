"""Dropout of single features in training, drawn from torch's current random state, which training sets at each step.

PyTorch's own draws one number after another on a CPU and takes twice as long as a 3x3 convolution of 32 maps. Here 64
random bits decide four features: an eighth of the time. The draw is one operation for the compiler too, so a compiled training
drops what an uncompiled one does.

Reference: Srivastava et al. 2014 (JMLR 15), inverted: what is kept is scaled up, so that evaluation needs no factor.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Dropout(nn.Module):
    """Set features to zero with some probability and scale the others, in training only."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Drop features of a map of any shape."""
        if not self.training or self.probability == 0:
            return x
        if not x.is_cpu:
            return F.dropout(x, self.probability)
        return x * kept(x.detach(), self.probability)

    def extra_repr(self) -> str:
        """Describe the layer in `print(model)`."""
        return str(self.probability)


@torch.library.custom_op(
    "raypixel::kept", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,)
)
def kept(x: Tensor, probability: float) -> Tensor:
    """Draw a factor for each feature: 0 with this probability (to 1/65536), else what keeps its mean."""
    count = x.numel()
    num_dropped = min(round(probability * 2**16), 2**16 - 1)
    words = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    draws = words.view(torch.int16)[:count].float()  # each of 65536 values equally likely
    factors = draws.ge_(num_dropped - 2**15).mul_(2**16 / (2**16 - num_dropped)).to(x.dtype)
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        n, c, h, w = x.shape
        return factors.view(n, h, w, c).permute(0, 3, 1, 2)
    return factors.view(x.shape)


@kept.register_fake
def _(x: Tensor, probability: float) -> Tensor:
    del probability
    is_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    form = torch.channels_last if is_last else torch.contiguous_format
    return torch.empty_like(x, memory_format=form)
