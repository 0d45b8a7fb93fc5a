"""Distributions of a pixel's levels: what a model's parameters mean.

A likelihood is stateless. The parameters of images are (N, P, C, H, W) where each dimension has its own (here), or (N, P, H, W)
where a whole pixel has (`raypixel.nn.mixtures`); those of one pixel are (N, P, C) or (N, P). The channels of a pixel are drawn
in turn, each given those before it. Sampling takes its noise from outside (Gumbel-max), so that an image depends on
its own seed only and a sample can be repeated on any device.

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
    """What sampling, and the last layer of a network, need beside."""

    noise_size: int

    def num_maps(self, num_channels: int) -> int:
        """Return how many numbers the parameters of a pixel are."""
        ...

    def unpack(self, maps: Tensor) -> Tensor:
        """Return the parameters, (N, P, C, ..) or (N, P, ..), that a network's last maps (N, num_maps, ..) are."""
        ...

    def sample(
        self, params: Tensor, noise: Tensor, *, given: Tensor, temperature: Tensor | float = 1.0
    ) -> Tensor:
        """Draw the level of the next channel of a pixel.

        Args:
            params: Parameters of one pixel of each image, (N, P, C) or (N, P).
            noise: Gumbel noise, (N, noise_size).
            given: Levels of the channels before, (N, c), c < C.
            temperature: Divides the log-probabilities: a number, or (N, 1).

        Returns:
            Levels, (N,), int64.
        """
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


def likelihood_for(num_levels: int) -> "Bernoulli | Categorical":
    """Choose Bernoulli for two levels and Categorical for more."""
    return Bernoulli() if num_levels == 2 else Categorical(num_levels)


class PerDimension:
    """What the likelihoods share in which each dimension has `num_params` parameters of its own."""

    num_params: int

    def num_maps(self, num_channels: int) -> int:
        """Return how many numbers the parameters of a pixel are."""
        return num_channels * self.num_params

    def unpack(self, maps: Tensor) -> Tensor:
        """Return parameters (N, P, C, ..) from maps (N, C * P, ..)."""
        return maps.unflatten(1, (-1, self.num_params)).transpose(1, 2)


class Bernoulli(PerDimension):
    """Two levels, one logit each: log p(1) = log sigmoid(logit)."""

    num_levels = 2
    num_params = 1
    noise_size = 2

    def nll_map(self, params: Tensor, x: Tensor) -> Tensor:
        """Return nats of every dimension, (N, C, H, W), from logits (N, 1, C, H, W)."""
        logits = _at_least_float32(params)[:, 0]
        return F.binary_cross_entropy_with_logits(logits, x.to(logits.dtype), reduction="none")

    def sample(
        self, params: Tensor, noise: Tensor, *, given: Tensor, temperature: Tensor | float = 1.0
    ) -> Tensor:
        """Draw 0 or 1 from logits (N, 1, C) and Gumbel noise (N, 2), (N,) int64."""
        logits = _at_least_float32(params[:, :, given.shape[1]] / temperature)[:, 0]
        return (logits + noise[:, 1] > noise[:, 0]).long()


class Categorical(PerDimension):
    """K levels, K logits each: no shape is assumed, the distribution may be multimodal."""

    def __init__(self, num_levels: int) -> None:
        self.num_levels = self.num_params = self.noise_size = num_levels

    def nll_map(self, params: Tensor, x: Tensor) -> Tensor:
        """Return nats of every dimension, (N, C, H, W), from logits (N, K, C, H, W)."""
        return F.cross_entropy(_at_least_float32(params), x.long(), reduction="none")

    def sample(
        self, params: Tensor, noise: Tensor, *, given: Tensor, temperature: Tensor | float = 1.0
    ) -> Tensor:
        """Draw a level from logits (N, K, C) and Gumbel noise (N, K), (N,) int64."""
        logits = _at_least_float32(params[:, :, given.shape[1]] / temperature)
        return (logits + noise).argmax(dim=1)


def gumbel_noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw standard Gumbel noise in float64 on the CPU: -log(-log(u)), u uniform in (0, 1)."""
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    return -torch.log(-torch.log(uniform.clamp_(1e-300, 1 - 1e-16)))


def _at_least_float32(params: Tensor) -> Tensor:
    return params if params.dtype == torch.float64 else params.float()
