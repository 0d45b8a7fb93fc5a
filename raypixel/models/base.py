"""What every model is: the base of its class, and the base of its options."""

import itertools
from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from raypixel.config import Frozen
from raypixel.nn.likelihoods import PixelLikelihood
from raypixel.nn.plan import Stage


class ModelConfig(Frozen):
    """Options that every architecture has; each model's own `Config` adds to them."""

    kind: str
    """Name of the architecture in the registry."""
    hidden_size: int
    """Features h of a layer; the residual maps have 2h."""
    num_layers: int
    """Layers (residual blocks) between the first layer and the output."""

    @property
    def is_class_conditional(self) -> bool:
        """Whether the model is given class labels."""
        return False


class PixelModel(nn.Module, ABC):
    """Base of every model. It declares what one offers and computes nothing: models hold what they share.

    A model is made by `(config, image_shape=, num_levels=, num_classes=)`. One that can be the conditional half of `multiscale`
    has `accepts_condition`, the keyword `condition_channels` in its constructor and `condition` in `forward`.

    Attributes:
        Config: The model's options.
        accepts_condition: Whether its layers accept conditioning maps.
        config: The options that it was made with.
        image_shape: (C, H, W).
        num_levels: Intensity levels K of a sub-pixel.
        num_classes: Classes of which `forward` wants labels, 0 for an unconditional model.
        likelihood: What its parameters mean.
    """

    Config: ClassVar[type[ModelConfig]]
    accepts_condition: ClassVar[bool] = False
    config: ModelConfig
    image_shape: tuple[int, int, int]
    num_levels: int
    num_classes: int
    likelihood: PixelLikelihood

    @abstractmethod
    def forward(self, x: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Return parameters (N, P, C, H, W) for levels (N, C, H, W); pixels before a pixel decide its parameters."""

    @abstractmethod
    def stages(self) -> list[Stage]:
        """Return the raster scans by which an image is sampled, with what each computes at a position."""

    def generation_order(self) -> list[tuple[int, int]]:
        """Return every (row, column) once, in the order in which the model factorizes the image: raster order."""
        _, height, width = self.image_shape
        return list(itertools.product(range(height), range(width)))
