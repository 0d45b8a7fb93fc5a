"""Pictures in requests: base64 of a PNG or WebP to a model's levels, and to a mask; what is wrong is said in a sentence."""

import base64
import binascii
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from raypixel.data.shown import decode_shown, observed_part, observed_picture, shown_levels
from raypixel.errors import DataError
from raypixel.serving.hosts import Card
from raypixel.serving.settings import Limits

_PREFIXES = ("data:image/png;base64,", "data:image/webp;base64,")


def read_pictures(texts: Sequence[str], card: Card, limits: Limits) -> Tensor:
    """Decode pictures to a model's levels, (N, C, H, W), uint8.

    Raises:
        DataError: One is damaged, too large, of another size or of the wrong colors.
    """
    values = []
    for number, text in enumerate(texts):
        where = f"images[{number}]"
        picture = _picture(text, where=where, limits=limits)
        try:
            values.append(decode_shown(picture, where=where, image_shape=card.image_shape))
        except Image.DecompressionBombWarning as warning:  # where warnings are errors
            raise DataError(f"{where}: must be a readable image, got {warning}") from None
    stacked = torch.from_numpy(np.stack(values))
    return shown_levels(stacked, num_levels=card.num_levels, data=card.data_options)


def read_observed(text: str, card: Card, limits: Limits) -> Tensor:
    """Return which sub-pixels are observed, (C, H, W), bool.

    Raises:
        ConfigError: A number does not fit the model.
        DataError: It is neither a part in words nor a readable mask.
    """
    observed = observed_part(text, card.image_shape, where="observed:")
    if observed is not None:
        return observed
    if len(text) < 64:
        rule = "must be top-half, rows:N, columns:N or a picture in base64"
        raise DataError(f"observed: {rule}, got {text!r}")
    picture = _picture(text, where="observed", limits=limits)
    try:
        return observed_picture(picture, card.image_shape, where="observed")
    except Image.DecompressionBombWarning as warning:
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
