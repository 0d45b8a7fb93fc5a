"""Pictures that a model is shown: encoded files to its levels, and which of their pixels are observed."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raypixel.data.sources.decoding import decode, look, verify
from raypixel.errors import ConfigError, DataError


def decode_shown(picture: bytes, *, where: str, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Decode a picture of exactly a model's size; its pixels are decoded only if the header says so.

    Args:
        picture: The encoded file.
        where: What to call it in an error.
        image_shape: (C, H, W) of the model.

    Returns:
        Values, (C, H, W), uint8.

    Raises:
        DataError: It is no image, or its size or colors are not the model's.
    """
    channels, height, width = image_shape
    seen = look(picture, where=where)
    if (seen.height, seen.width) != (height, width):
        raise DataError(
            f"{where}: must be {height}x{width} as in training, got {seen.height}x{seen.width}"
        )
    verify(picture, where=where)
    values = decode(picture, where=where, channels=3, size=None)
    if channels == 1 and not (values == values[:1]).all():
        raise DataError(f"{where}: must be gray as in training, got colors")
    return values[:channels]


def shown_levels(values: Tensor, *, num_levels: int, data: Mapping[str, Any]) -> Tensor:
    """Map values of 0 to 255 to a model's levels, uint8.

    Two levels are black below 128. More are spread over 0 to 255, or cut from them if the training cut its levels so.

    Args:
        values: Of any shape.
        num_levels: K.
        data: The training's data options.
    """
    x = values.long()
    if num_levels == 2:
        x = (x >= 128).long()
    elif data.get("num_levels") is not None:
        x = x * num_levels // 256
    else:
        x = (2 * x * (num_levels - 1) + 255) // (2 * 255)  # to the nearest
    return x.to(torch.uint8)


def observed_part(text: str, image_shape: tuple[int, int, int], *, where: str) -> Tensor | None:
    """Return which sub-pixels are observed, (C, H, W), bool; None if the text is no part in words.

    Args:
        text: "top-half", "rows:N" (the first N rows) or "columns:N".
        image_shape: (C, H, W).
        where: What to call the text in an error.

    Raises:
        ConfigError: N does not fit.
    """
    channels, height, width = image_shape
    observed = torch.zeros(channels, height, width, dtype=torch.bool)
    kind, colon, number = text.partition(":")
    if text == "top-half":
        observed[:, : height // 2] = True
    elif colon and kind in ("rows", "columns"):
        longest = height if kind == "rows" else width
        is_number = number.isascii() and number.isdecimal() and len(number) < 10
        if not is_number or int(number) > longest:
            raise ConfigError(f"{where} {kind}:N must have N in 0 to {longest}, got {text!r}")
        if kind == "rows":
            observed[:, : int(number)] = True
        else:
            observed[:, :, : int(number)] = True
    else:
        return None
    return observed


def observed_picture(picture: bytes, image_shape: tuple[int, int, int], *, where: str) -> Tensor:
    """Return which sub-pixels a mask's picture says are observed, the bright ones, (C, H, W), bool.

    Raises:
        DataError: The picture is not readable, or of another size.
    """
    seen = look(picture, where=where)
    if (seen.height, seen.width) != image_shape[1:]:
        size = f"{image_shape[1]}x{image_shape[2]}"
        raise DataError(f"{where}: must be {size} as the images, got {seen.height}x{seen.width}")
    verify(picture, where=where)
    mask = decode(picture, where=where, channels=1, size=None)
    return torch.from_numpy(mask >= 128).expand(image_shape).clone()
