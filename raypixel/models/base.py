"""What every model is: the base of its class, and the base of its options."""

import itertools
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from raypixel.config import Frozen, OddSize
from raypixel.nn.likelihoods import PixelLikelihood, likelihood_for
from raypixel.nn.mixtures import DiscretizedLogisticMixture
from raypixel.nn.norm import Normalization
from raypixel.nn.plan import Stage

PixelDistribution = Literal["auto", "mixture", "softmax"]


class ModelConfig(Frozen):
    """Options that every architecture has; each model's own `Config` adds to them."""

    kind: str
    """Name of the architecture in the registry."""
    hidden_size: int
    """Features h of a layer; the residual maps have 2h."""
    num_layers: int
    """Layers (residual blocks) between the first layer and the output."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Probability with which training sets a feature to zero, before the last 1x1 of each layer."""

    @property
    def is_class_conditional(self) -> bool:
        """Whether the model is given class labels."""
        return False


class StackConfig(ModelConfig):
    """Options of the architectures that are a first masked convolution and a `ResidualStack` on 2h maps."""

    first_kernel_size: OddSize = Field(7, ge=1)
    """Odd size of the first masked convolution."""
    use_residual: bool = True
    """Add a block's input to its output."""
    use_skip: bool = False
    """Sum a 1x1 convolution of every block's output into the input of the output layers."""
    norm: Normalization = "none"
    """Layer normalization before each block, per colour group."""
    output_size: int = Field(128, ge=1)
    """Maps of the two 1x1 output layers."""


class WholePixelConfig(ModelConfig):
    """Options of the architectures that condition on whole pixels, PixelCNN++ and PixelSNAIL."""

    hidden_size: int = Field(64, ge=1)
    """Filters: maps of every layer."""
    likelihood: PixelDistribution = "auto"
    """What a pixel is drawn from: a mixture of discretized logistics, a softmax (a logit for two levels) whose channels are
    independent given the other pixels, or whichever is usual: softmax for two levels, mixture for more."""
    num_mixtures: int = Field(10, ge=1)
    """Mixtures K of a pixel."""
    use_class_conditioning: bool = False
    """Add an embedding of the class before the gate of every residual layer."""

    @property
    def is_class_conditional(self) -> bool:
        """Whether the model is given class labels."""
        return self.use_class_conditioning

    def make_likelihood(self, num_levels: int, num_channels: int) -> PixelLikelihood:
        """Return the likelihood of images."""
        if self.likelihood == "softmax" or (self.likelihood == "auto" and num_levels == 2):
            return likelihood_for(num_levels)
        return DiscretizedLogisticMixture(
            num_levels, num_channels=num_channels, num_mixtures=self.num_mixtures
        )


class PixelModel(nn.Module, ABC):
    """Base of every model. It declares what one offers and computes nothing: models hold what they share.

    A model is made by `(config, image_shape=, num_levels=, num_classes=)`. One that can be the conditional half of `multiscale`
    has `accepts_condition`, the keyword `condition_channels` in its constructor, and in `forward` the keyword `condition`: maps
    (N, condition_channels, H, W).

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
        """Return the parameters of every sub-pixel, each decided by the sub-pixels generated before it.

        Args:
            x: Levels in [0, K-1], (N, C, H, W), any integer type.
            class_labels: (N,) int64 in [0, num_classes - 1] for a class-conditional model, else None.

        Returns:
            Parameters of `self.likelihood`, (N, P, C, H, W), or (N, P, H, W) if whole pixels have them: then each is decided by
            the pixels generated before it.

        Raises:
            ValueError: Class labels are missing, or given to an unconditional model.
        """

    @abstractmethod
    def stages(self) -> list[Stage]:
        """Return the raster scans by which an image is sampled, with what each computes at a position."""

    def generation_order(self) -> list[tuple[int, int]]:
        """Return every (row, column) once, in the order in which the model factorizes the image: raster order."""
        _, height, width = self.image_shape
        return list(itertools.product(range(height), range(width)))


class WholePixelModel(PixelModel):
    """What PixelCNN++ and PixelSNAIL keep of what they are made with."""

    config: WholePixelConfig

    def __init__(
        self,
        config: WholePixelConfig,
        *,
        image_shape: tuple[int, int, int],
        num_levels: int,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        check_classes(config, num_classes)
        self.config = config
        self.image_shape = image_shape
        self.num_levels = num_levels
        self.num_classes = num_classes if config.use_class_conditioning else 0
        self.likelihood = config.make_likelihood(num_levels, image_shape[0])


def check_classes(config: ModelConfig, num_classes: int) -> None:
    """Check that a class-conditional model gets data with classes.

    Raises:
        ValueError: There are none.
    """
    if config.is_class_conditional and not num_classes:
        raise ValueError("use_class_conditioning must be false for data without classes, got true")


def check_class_labels(model: PixelModel, class_labels: Tensor | None) -> None:
    """Check that labels are given to a model that wants them, and to no other.

    Raises:
        ValueError: They are missing, or given to a model without class conditioning.
    """
    if class_labels is None and model.num_classes:
        raise ValueError(f"class_labels must be given, one of {model.num_classes} per image")
    if class_labels is not None and not model.num_classes:
        kind = model.config.kind
        raise ValueError(f"class_labels must be None, {kind} is not class-conditional")
