"""Units: nats per image and bits per dimension, with exact accumulation; durations as text."""

import math
from dataclasses import dataclass


def bits_per_dim(nll_nats: float, num_images: int, num_dims: int) -> float:
    """Convert a sum of nats over images to bits per dimension.

    Args:
        nll_nats: Sum of negative log-likelihoods, natural log.
        num_images: Images in the sum.
        num_dims: Sub-pixels of one image, C * H * W.

    Reference: van den Oord et al. 2016a, sec. 5.2.
    """
    return nll_nats / (num_images * num_dims * math.log(2.0))


@dataclass(frozen=True)
class Likelihood:
    """Accumulate nats and counts exactly: sums are merged and divided once, never averages of averages.

    Attributes:
        nll_nats: Sum of the images' negative log-likelihoods.
        squared_nats: Sum of their squares, for the standard error.
        num_images: Images counted.
        num_dims: Sub-pixels of one image.
    """

    nll_nats: float
    squared_nats: float
    num_images: int
    num_dims: int

    def __add__(self, other: "Likelihood") -> "Likelihood":
        if self.num_dims != other.num_dims:
            raise ValueError(f"num_dims must agree, got {self.num_dims} and {other.num_dims}")
        return Likelihood(
            self.nll_nats + other.nll_nats,
            self.squared_nats + other.squared_nats,
            self.num_images + other.num_images,
            self.num_dims,
        )

    @property
    def bits_per_dim(self) -> float:
        """Mean bits per dimension."""
        return bits_per_dim(self.nll_nats, self.num_images, self.num_dims)

    @property
    def nats_per_image(self) -> float:
        """Mean nats of one image."""
        return self.nll_nats / self.num_images

    @property
    def standard_error_nats(self) -> float:
        """Standard error of `nats_per_image` (n - 1 in the variance; zero for one image)."""
        n = self.num_images
        if n < 2:
            return 0.0
        variance = max(self.squared_nats - self.nll_nats**2 / n, 0.0) / (n - 1)
        return math.sqrt(variance / n)


def duration(seconds: float) -> str:
    """Write a time such as 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
