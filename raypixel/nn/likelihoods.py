"""Distributions of one sub-pixel: what a model's parameters mean.

A likelihood is stateless. `num_params` parameters stand for each dimension, as (N, num_params, C, H, W) for images
and (N, num_params) for one dimension. Sampling takes its noise from outside (Gumbel-max), so that an image
depends on its own seed only and a sample can be repeated on any device.

Reference: van den Oord et al. 2016a, sec. 2 (256-way softmax; sigmoid for binary images); Gumbel-max: Maddison et
al. 2014 (arXiv 1411.0030), sec. 2.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class ScoringLikelihood(Protocol):
    """What training and evaluation need from a model's output distribution."""

    num_levels: int

    def nll_map(self, params: Tensor, x: Tensor) -> Tensor:
        """Return nats of every dimension, (N, C, H, W), from the model's parameters."""
        ...


class PixelLikelihood(ScoringLikelihood, Protocol):
    """A distribution of each dimension on its own, its parameters (N, P, C, H, W), and what sampling needs of it."""

    num_params: int
    noise_size: int

    def sample(self, params: Tensor, noise: Tensor, *, temperature: float = 1.0) -> Tensor:
        """Draw a level for one dimension of each image, (N,), from params (N, P) and noise (N, noise_size)."""
        ...


def nll_nats(likelihood: ScoringLikelihood, params: Tensor, x: Tensor) -> Tensor:
    """Return the negative log-likelihood of each image.

    Args:
        likelihood: The model's likelihood.
        params: Parameters as the likelihood takes them, (N, P, C, H, W) where each dimension has its own.
        x: Levels in [0, K-1], (N, C, H, W), any integer type.

    Returns:
        Nats per image, summed over dimensions in float64, (N,).

    Raises:
        ValueError: A level is outside [0, K-1].

    Reference: van den Oord et al. 2016a, sec. 2.1, eq. 1.
    """
    if x.numel() and not 0 <= int(x.min()) <= int(x.max()) < likelihood.num_levels:
        raise ValueError(
            f"x must hold levels in [0, {likelihood.num_levels - 1}], "
            f"got [{int(x.min())}, {int(x.max())}]"
        )
    return likelihood.nll_map(params, x).flatten(1).sum(1, dtype=torch.float64)


def likelihood_for(num_levels: int) -> "PixelLikelihood":
    """Choose Bernoulli for two levels and Categorical for more."""
    return Bernoulli() if num_levels == 2 else Categorical(num_levels)


class Bernoulli:
    """Two levels, one logit each: log p(1) = log sigmoid(logit)."""

    num_levels = 2
    num_params = 1
    noise_size = 2

    def nll_map(self, params: Tensor, x: Tensor) -> Tensor:
        """Return nats of every dimension, (N, C, H, W), from logits (N, 1, C, H, W)."""
        logits = _at_least_float32(params)[:, 0]
        return F.binary_cross_entropy_with_logits(logits, x.to(logits.dtype), reduction="none")

    def sample(self, params: Tensor, noise: Tensor, *, temperature: float = 1.0) -> Tensor:
        """Draw 0 or 1 from logits (N, 1) and Gumbel noise (N, 2), (N,) int64."""
        logits = _at_least_float32(params)[:, 0] / temperature
        return (logits + noise[:, 1] > noise[:, 0]).long()


class Categorical:
    """K levels, K logits each: no shape is assumed, the distribution may be multimodal."""

    def __init__(self, num_levels: int) -> None:
        self.num_levels = self.num_params = self.noise_size = num_levels

    def nll_map(self, params: Tensor, x: Tensor) -> Tensor:
        """Return nats of every dimension, (N, C, H, W), from logits (N, K, C, H, W)."""
        return F.cross_entropy(_at_least_float32(params), x.long(), reduction="none")

    def sample(self, params: Tensor, noise: Tensor, *, temperature: float = 1.0) -> Tensor:
        """Draw a level from logits (N, K) and Gumbel noise (N, K), (N,) int64."""
        return (_at_least_float32(params) / temperature + noise).argmax(dim=1)


def gumbel_noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw standard Gumbel noise in float64 on the CPU: -log(-log(u)), u uniform in (0, 1)."""
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    return -torch.log(-torch.log(uniform.clamp_(1e-300, 1 - 1e-16)))


def _at_least_float32(params: Tensor) -> Tensor:
    return params if params.dtype == torch.float64 else params.float()
