"""The discretized logistic mixture: a distribution of whole pixels, over any number of levels.

K mixtures are shared by the channels of a pixel. In one of them each channel is a logistic distribution, cut into the bins of
its levels: a level is half a bin around its value in [-1, 1], the lowest and the highest bin are open. The mean of a channel
moves linearly with the channels before it. Parameters (N, P, H, W) are, each K times: a logit; a mean for each channel; a
log-scale for each channel; a coefficient (through tanh) for each pair of channels: G from R, B from R, B from G.

Reference: Salimans et al. 2017 (arXiv 1701.05517), sec. 2.1-2.2.
Unlike the published code, a bin's probability is the exact difference of two logistic CDFs however narrow the bin is, not the
density times the width; and a sample is a level, so that what conditions the next channel is what was drawn.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from raypixel.nn.likelihoods import nll_nats

LOWEST_LOG_SCALE = -7.0


class DiscretizedLogisticMixture:
    """Whole pixels by a mixture of K discretized logistic distributions."""

    def __init__(self, num_levels: int, *, num_channels: int, num_mixtures: int) -> None:
        """Make the likelihood.

        Args:
            num_levels: Intensity levels of a sub-pixel, at least 2.
            num_channels: Channels C of the image.
            num_mixtures: Mixtures K of a pixel.
        """
        self.num_levels = self.noise_size = num_levels
        self.num_channels = num_channels
        self.num_mixtures = num_mixtures

    def num_maps(self, num_channels: int) -> int:
        """Return how many numbers the parameters of a pixel are: 3, 6, 10 of each mixture for 1, 2, 3 channels."""
        return self.num_mixtures * (1 + 2 * num_channels + num_channels * (num_channels - 1) // 2)

    def unpack(self, maps: Tensor) -> Tensor:
        """Return parameters (N, P, ..) from maps (N, P, ..)."""
        return maps

    def nll_nats(self, params: Tensor, x: Tensor) -> Tensor:
        """Return the negative log-likelihood of each image, (N,), float64; see `raypixel.nn.likelihoods.nll_nats`."""
        return nll_nats(self, params, x)

    def nll_map(self, params: Tensor, x: Tensor) -> Tensor:
        """Return nats of every dimension given those before it, (N, C, H, W), from params (N, P, H, W)."""
        parts = self._parts(params)
        joint = parts[0].log_softmax(dim=1)  # (N, K, H, W), of the mixture and the channels so far
        before = torch.zeros_like(joint[:, 0])
        nats = []
        for channel in range(self.num_channels):
            mean, log_scale = self._logistic(parts, channel, x)
            level = x[:, channel : channel + 1].long()  # (N, 1, H, W)
            joint = joint + self._log_bin(level, mean, log_scale)
            after = joint.logsumexp(dim=1)
            nats.append(before - after)
            before = after
        return torch.stack(nats, dim=1)

    def log_probabilities(self, params: Tensor, given: Tensor) -> Tensor:
        """Return the log-probability of each level of a pixel's next channel.

        Args:
            params: Parameters of one pixel of each image, (N, P).
            given: Levels of its channels before, (N, c), c < C.

        Returns:
            Normalized log-probabilities, (N, num_levels).
        """
        parts = self._parts(params)
        mixture = parts[0].log_softmax(dim=1)  # (N, K)
        channel = given.shape[1]
        for earlier in range(channel):
            logistic = self._logistic(parts, earlier, given)
            mixture = mixture + self._log_bin(given[:, earlier : earlier + 1].long(), *logistic)
        mixture = mixture.log_softmax(dim=1)  # which mixture it is, given the channels before
        mean, log_scale = self._logistic(parts, channel, given)
        levels = torch.arange(self.num_levels, device=params.device)
        bins = self._log_bin(levels, mean[..., None], log_scale[..., None])  # (N, K, num_levels)
        return (mixture[..., None] + bins).logsumexp(dim=1)

    def sample(
        self, params: Tensor, noise: Tensor, *, given: Tensor, temperature: Tensor | float = 1.0
    ) -> Tensor:
        """Draw a level of the next channel, (N,), from params (N, P), Gumbel noise (N, num_levels) and `given` (N, c)."""
        return (self.log_probabilities(params, given) / temperature + noise).argmax(dim=1)

    def _parts(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return logits (N, K, ..), means and log-scales (N, C, K, ..), coefficients (N, pairs, K, ..)."""
        params = params if params.dtype == torch.float64 else params.float()
        maps = params.unflatten(1, (-1, self.num_mixtures))
        c = self.num_channels
        means, log_scales = maps[:, 1 : 1 + c], maps[:, 1 + c : 1 + 2 * c]
        log_scales = log_scales.clamp(min=LOWEST_LOG_SCALE)
        return maps[:, 0], means, log_scales, maps[:, 1 + 2 * c :].tanh()

    def _logistic(
        self, parts: tuple[Tensor, Tensor, Tensor, Tensor], channel: int, x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return mean and log-scale of a channel, (N, K, ..) each, given levels (N, at least `channel`, ..)."""
        _, means, log_scales, coefficients = parts
        mean = means[:, channel]
        first = channel * (channel - 1) // 2
        for earlier in range(channel):
            level = x[:, earlier : earlier + 1].to(mean.dtype)
            value = level * (2.0 / (self.num_levels - 1)) - 1.0
            mean = mean + coefficients[:, first + earlier] * value
        return mean, log_scales[:, channel]

    def _log_bin(self, level: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
        """Return the log-probability of the bins of levels, broadcast against mean and log-scale.

        It is log(s(b) - s(a)), s the logistic function and a < b the scaled edges. Both terms may round to 1, or to 0, so
        that their difference is lost: s(b) - s(a) = s(b) s(-a) (1 - exp(a - b)), and b - a does not depend on the mean.
        """
        last = self.num_levels - 1
        inverse = torch.exp(-log_scale)
        center = level.to(mean.dtype) * 2 - last
        below_upper = F.logsigmoid(((center + 1) / last - mean) * inverse)
        above_lower = F.logsigmoid((mean - (center - 1) / last) * inverse)
        width = 2.0 / last * inverse  # b - a
        # log(1 - exp(-w)); for narrow bins by its series, in which no w that rounds to zero meets a logarithm
        narrow = math.log(2.0 / last) - log_scale - width / 2 + width**2 / 24
        wide = torch.log(-torch.expm1(-width.clamp(min=1e-2)))
        inside = torch.where(width < 1e-2, narrow, wide)
        both = below_upper + above_lower + inside
        return torch.where(level == 0, below_upper, torch.where(level == last, above_lower, both))
