"""The bodies of requests: what they hold, their bounds, and the images that they ask a model for."""

import asyncio
import base64
import binascii
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from PIL.Image import DecompressionBombWarning
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from raypixel.data.shown import decode_shown, observed_part, observed_picture, shown_levels
from raypixel.errors import ConfigError, DataError
from raypixel.sampling import Image, image_seeds
from raypixel.serving.replica import ServedModel
from raypixel.serving.settings import Limits

# an 8x8 gray PNG, so that an example can be sent as it stands to a model of digits
EXAMPLE_PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAEE"
    "lEQVR4nGNkEIQAJkGKGACW0QQ/Ddd0qQAAAABJRU5ErkJggg=="
)

_PREFIXES = ("data:image/png;base64,", "data:image/webp;base64,")

Name = Annotated[
    str | None, Field(max_length=64, description="A served model; the first by default.")
]
Seed = Annotated[int, Field(ge=0, le=2**53 - 1, description="The same seed, the same images.")]
Temperature = Annotated[
    float, Field(ge=0.01, le=100, description="Divides the logits: less than 1 sharpens.")
]
ClassLabel = Annotated[
    int | None, Field(ge=0, le=2**31 - 1, description="Class, for a class-conditional model.")
]
Stream = Annotated[
    bool, Field(description="Answer with server-sent events: rows as they are written.")
]
Pictures = Annotated[
    list[str], Field(min_length=1, description="PNG or WebP of the model's size, in base64.")
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class SampleRequest(_Body):
    """Ask for new images."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"n": 4, "seed": 7}]})

    model: Name = None
    n: Annotated[int, Field(ge=1, description="How many images.")] = 1
    seed: Seed = 0
    temperature: Temperature = 1.0
    class_label: ClassLabel = None
    stream: Stream = False

    def check(self, limits: Limits) -> None:
        """Raise a ConfigError if more is asked for than the limits allow."""
        _check_most("n", self.n, limits.max_n)
        _check_most("n", self.n, limits.max_queued_images)

    async def to_images(self, model: ServedModel, limits: Limits) -> list[Image]:
        """Return what is to be made.

        Raises:
            ConfigError: The class is not one of the model's.
        """
        del limits
        num_classes = model.answer.num_classes
        labels: list[int | None] = [self.class_label] * self.n
        if self.class_label is not None or not num_classes:
            _check_label(self.class_label, model)
        else:
            labels = [k % num_classes for k in range(self.n)]
        seeds = image_seeds(self.seed, self.n)
        return [Image(s, label, self.temperature) for s, label in zip(seeds, labels, strict=True)]


class CompletionRequest(_Body):
    """Ask for what the part of a picture that is not observed may be."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"images": [EXAMPLE_PICTURE], "observed": "rows:3", "n": 2, "seed": 7}]
        }
    )

    model: Name = None
    images: Pictures
    observed: Annotated[
        str,
        Field(description="top-half, rows:N, columns:N, or a mask's PNG or WebP in base64."),
    ] = "top-half"
    n: Annotated[int, Field(ge=1, description="Completions of each picture.")] = 1
    seed: Seed = 0
    temperature: Temperature = 1.0
    class_label: ClassLabel = None
    stream: Stream = False

    def check(self, limits: Limits) -> None:
        """Raise a ConfigError if more is asked for than the limits allow."""
        _check_most("n", self.n, limits.max_n)
        _check_most("images", len(self.images), limits.max_images)
        _check_most("images times n", len(self.images) * self.n, limits.max_queued_images)

    async def to_images(self, model: ServedModel, limits: Limits) -> list[Image]:
        """Return what is to be made, the completions of each picture one after another.

        Raises:
            ConfigError: The class or what is observed does not fit the model.
            DataError: A picture cannot be taken.
        """
        _check_label(self.class_label, model)
        observed = await asyncio.to_thread(_read_observed, self.observed, model, limits)
        x = await asyncio.to_thread(_read_pictures, self.images, model, limits)
        seeds = image_seeds(self.seed, self.n)
        return [
            Image(seed, self.class_label, self.temperature, picture, observed)
            for picture in x
            for seed in seeds
        ]


class ScoreRequest(_Body):
    """Ask how likely pictures are."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"images": [EXAMPLE_PICTURE], "per_pixel": True}]}
    )

    model: Name = None
    images: Pictures
    class_label: ClassLabel = None
    per_pixel: Annotated[bool, Field(description="Add the nats of each pixel.")] = False

    def check(self, limits: Limits) -> None:
        """Raise a ConfigError if more is asked for than the limits allow."""
        _check_most("images", len(self.images), limits.max_images)
        _check_most("images times n", len(self.images), limits.max_queued_images)

    async def to_levels(self, model: ServedModel, limits: Limits) -> tuple[Tensor, Tensor | None]:
        """Return levels (N, C, H, W) and labels (N,).

        Raises:
            ConfigError: The class does not fit the model.
            DataError: A picture cannot be taken.
        """
        _check_label(self.class_label, model)
        x = await asyncio.to_thread(_read_pictures, self.images, model, limits)
        return x, None if self.class_label is None else torch.full((len(x),), self.class_label)


ImagesRequest = SampleRequest | CompletionRequest
BODIES: dict[str, type[BaseModel]] = {
    "/v1/samples": SampleRequest,
    "/v1/completions": CompletionRequest,
    "/v1/scores": ScoreRequest,
}


def _check_most(name: str, count: int, most: int) -> None:
    if count > most:
        raise ConfigError(f"{name} must be at most {most}, got {count}")


def _check_label(label: int | None, model: ServedModel) -> None:
    name, num_classes = model.answer.name, model.answer.num_classes
    if not num_classes and label is not None:
        raise ConfigError(f"class_label must be left out: {name} has no classes, got {label}")
    if num_classes and (label is None or label >= num_classes):
        got = "none" if label is None else label
        raise ConfigError(f"class_label must be one of 0 to {num_classes - 1}, got {got}")


def _read_pictures(texts: Sequence[str], model: ServedModel, limits: Limits) -> Tensor:
    """Decode pictures to a model's levels, (N, C, H, W), uint8.

    Raises:
        DataError: One is damaged, too large, of another size or of the wrong colors.
    """
    values = []
    for number, text in enumerate(texts):
        where = f"images[{number}]"
        picture = _picture(text, where=where, limits=limits)
        try:
            values.append(decode_shown(picture, where=where, image_shape=model.image_shape))
        except DecompressionBombWarning as warning:  # where warnings are errors
            raise DataError(f"{where}: must be a readable image, got {warning}") from None
    stacked = torch.from_numpy(np.stack(values))
    return shown_levels(stacked, num_levels=model.answer.num_levels, data=model.data_options)


def _read_observed(text: str, model: ServedModel, limits: Limits) -> Tensor:
    """Return which sub-pixels are observed, (C, H, W), bool.

    Raises:
        ConfigError: A number does not fit the model.
        DataError: It is neither a part in words nor a readable mask.
    """
    observed = observed_part(text, model.image_shape, where="observed:")
    if observed is not None:
        return observed
    if len(text) < 64:
        rule = "must be top-half, rows:N, columns:N or a picture in base64"
        raise DataError(f"observed: {rule}, got {text!r}")
    picture = _picture(text, where="observed", limits=limits)
    try:
        return observed_picture(picture, model.image_shape, where="observed")
    except DecompressionBombWarning as warning:
        raise DataError(f"observed: must be a readable image, got {warning}") from None


def _picture(text: str, *, where: str, limits: Limits) -> bytes:
    for prefix in _PREFIXES:
        text = text.removeprefix(prefix)
    if len(text) > -(-limits.max_image_bytes // 3) * 4:
        got = f"about {len(text) * 3 // 4}"
        raise DataError(f"{where}: must have at most {limits.max_image_bytes} bytes, got {got}")
    try:
        picture = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise DataError(f"{where}: must be base64, got other characters or a cut text") from None
    is_png = picture.startswith(b"\x89PNG\r\n\x1a\n")
    if not is_png and not (picture[:4] == b"RIFF" and picture[8:12] == b"WEBP"):
        raise DataError(f"{where}: must be a PNG or WebP picture, got another kind of bytes")
    return picture
