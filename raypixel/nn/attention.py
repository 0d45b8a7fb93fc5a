"""Causal attention of PixelSNAIL: each position reads the values of all earlier ones.

The mask is strict: a position does not see itself, and the first one attends to nothing and gets zeros. (A softmax over a fully
masked row is uniform, so that the first position would see the whole image.) With position p shifted against its keys by one,
strictness is what every attention kernel calls causal: queries 1 .. D-1 over keys 0 .. D-2.

Reference: Chen et al. 2018 (arXiv 1712.09763), sec. 3 and fig. 3.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_attention(
    query: Tensor, keys: Tensor, values: Tensor, *, num_heads: int, num_rows: int | None
) -> Tensor:
    """Return each head's mean of earlier values, weighted by softmax(query . key / sqrt(size)).

    Args:
        query: (N, num_heads * q, H, W).
        keys: (N, num_heads * q, H, W).
        values: (N, num_heads * v, H, W).
        num_heads: Heads, whose channels follow each other.
        num_rows: Rows above that a position sees, all if None.

    Returns:
        (N, num_heads * v, H, W).
    """
    _, _, height, width = query.shape
    query, keys, values = (
        each.flatten(2).unflatten(1, (num_heads, -1)).transpose(2, 3).contiguous()
        for each in (query, keys, values)
    )  # (N, heads, D, q or v)
    query, keys, values = query[:, :, 1:], keys[:, :, :-1], values[:, :, :-1]
    mask = None
    if num_rows is not None:
        positions = torch.arange(height * width, device=query.device)
        later, earlier = positions[1:, None], positions[:-1]
        mask = (earlier < later) & (later // width - earlier // width <= num_rows)
    # kernels that do not keep all weights in memory want one size for all: zeros change neither products nor means
    key_size, value_size = query.shape[3], values.shape[3]
    size = max(key_size, value_size)
    query, keys, values = (F.pad(each, (0, size - each.shape[3])) for each in (query, keys, values))
    mixed = F.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, is_causal=mask is None, scale=key_size**-0.5
    )
    mixed = F.pad(mixed[..., :value_size], (0, 0, 1, 0))  # the first position
    return mixed.transpose(2, 3).flatten(1, 2).unflatten(2, (height, width))
