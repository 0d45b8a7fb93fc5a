"""One encoded picture to levels: any mode that Pillow reads becomes 1 or 3 channels of 8 bits.

Transparent pixels are laid over white, 16-bit values are scaled (Pillow would clip them), the camera's orientation is applied.
A given size is reached by a centered crop to its proportions, averaged (BOX) when it shrinks and LANCZOS when it grows.
"""

import io
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raypixel.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

_GRAY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")
_ORIENTATION = 0x0112
_THREAD_BYTES = 16_384  # below it threads cost more than they gain: CIFAR-10, 256 against 158 us


@dataclass(frozen=True)
class Look:
    """Say what a picture's header promises: its size once upright, and whether it is gray."""

    height: int
    width: int
    is_gray: bool


def look(picture: Path | bytes, *, where: str) -> Look:
    """Read a picture's header.

    Raises:
        DataError: It is not a picture.
    """
    with _Guard(where), _open(picture) as image:
        width, height = image.size
        if _may_be_turned(image) and image.getexif().get(_ORIENTATION, 1) >= 5:
            width, height = height, width
        return Look(height=height, width=width, is_gray=image.mode in _GRAY_MODES)


def verify(picture: bytes, *, where: str) -> None:
    """Check the checksums of a picture to its end; only PNG has any.

    Raises:
        DataError: It is damaged, or cut.
    """
    with _Guard(where), _open(picture) as image:
        image.verify()


def agree(
    looks: Iterator[tuple[str, Look]], *, size: tuple[int, int] | None, channels: int | None
) -> tuple[int, int, int]:
    """Find the (C, H, W) that fits every picture, looking no further than is needed.

    Args:
        looks: Each picture's name and header; at least one.
        size: The (height, width) to scale to, if asked for.
        channels: The channels to convert to, if asked for; otherwise 1 when every picture is gray, or 3.

    Raises:
        DataError: Two pictures differ in size and no size was asked for.
    """
    if size is not None and channels is not None:
        return channels, *size
    first: tuple[str, Look] | None = None
    is_gray = True
    for where, seen in looks:
        first = first or (where, seen)
        is_gray &= seen.is_gray
        height, width = first[1].height, first[1].width
        if size is None and (seen.height, seen.width) != (height, width):
            rule = f"must be {height}x{width} like {first[0]}, unless --size is given"
            raise DataError(f"{where}: {rule}, got {seen.height}x{seen.width}")
    assert first is not None, "the caller has found at least one picture"
    return channels or (1 if is_gray else 3), *(size or (first[1].height, first[1].width))


def decode(
    picture: bytes,
    *,
    where: str,
    channels: int,
    size: tuple[int, int] | None,
    crop: int | None = None,
) -> np.ndarray:
    """Decode a picture.

    Args:
        picture: The encoded file.
        where: What to call it in an error.
        channels: 1 (gray) or 3 (RGB).
        size: (height, width) to crop and scale to; None keeps its own.
        crop: First take the centered square of this many pixels, or what there is of it.

    Returns:
        Levels, (channels, height, width), uint8.

    Raises:
        DataError: It cannot be decoded.
    """
    from PIL import Image, ImageOps

    with _Guard(where), _open(picture) as image:
        upright = ImageOps.exif_transpose(image) if _may_be_turned(image) else image
        flat = _flatten(upright, "L" if channels == 1 else "RGB", where)
        if crop is not None:
            left, top = (max(0, (length - crop) // 2) for length in flat.size)
            flat = flat.crop(
                (left, top, min(left + crop, flat.width), min(top + crop, flat.height))
            )
        if size is not None and flat.size != (size[1], size[0]):
            is_smaller = size[0] * size[1] < flat.width * flat.height
            method = Image.Resampling.BOX if is_smaller else Image.Resampling.LANCZOS
            flat = ImageOps.fit(flat, (size[1], size[0]), method)
        levels = np.array(flat, dtype=np.uint8)
    return levels[None] if channels == 1 else levels.transpose(2, 0, 1)


def losses(picture: bytes, *, where: str) -> list[str]:
    """Say what `decode` cannot keep of a picture: transparency, and levels finer than 8 bits.

    Raises:
        DataError: It cannot be decoded.
    """
    with _Guard(where), _open(picture) as image:
        found = []
        stored = str(
            [tile[3] for tile in getattr(image, "tile", [])]
        )  # Pillow's name for the bytes
        if image.mode.startswith("I"):
            if (np.asarray(image) % 257).any():
                found.append("16 bits to 8")
        elif ";16" in stored:  # colors of 16 bits, which Pillow itself cuts
            found.append("16 bits to 8")
        if _has_alpha(image) and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
            found.append("transparency over white")
    return found


def decode_all(
    pictures: list[tuple[str, bytes]],
    *,
    image_shape: tuple[int, int, int],
    crop: int | None = None,
) -> np.ndarray:
    """Decode a batch of named pictures to one (C, H, W); see `decode`.

    Returns:
        Levels, (N, C, H, W), uint8.

    Raises:
        DataError: One of them cannot be decoded.
    """
    channels, height, width = image_shape

    def one(picture: tuple[str, bytes]) -> np.ndarray:
        where, content = picture
        return decode(content, where=where, channels=channels, size=(height, width), crop=crop)

    images = np.empty((len(pictures), *image_shape), np.uint8)
    num_bytes = sum(len(content) for _, content in pictures)
    with ThreadPoolExecutor() as pool:
        run = pool.map if num_bytes > _THREAD_BYTES * len(pictures) else map
        for position, levels in enumerate(run(one, pictures)):
            images[position] = levels
    return images


def _open(picture: Path | bytes) -> "Image.Image":
    from PIL import Image

    return Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture)


def _may_be_turned(image: "Image.Image") -> bool:
    # Pillow itself turns a TIFF; a PNG's orientation stands behind the pixels, and cameras do not write PNG.
    return image.format not in ("PNG", "TIFF") and "exif" in image.info


def _flatten(image: "Image.Image", mode: str, where: str) -> "Image.Image":
    from PIL import Image

    if image.mode == "F":
        raise DataError(f"{where}: must have 8 or 16 bits per channel, got floating point")
    if image.mode.startswith("I"):
        image = _to_8_bits(image, where)
    elif _has_alpha(image):
        over = image.convert("RGBA")
        image = Image.new("RGBA", image.size, "white")
        image.alpha_composite(over)
    return image if image.mode == mode else image.convert(mode)


def _has_alpha(image: "Image.Image") -> bool:
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def _to_8_bits(image: "Image.Image", where: str) -> "Image.Image":
    from PIL import Image

    levels = np.array(image).astype(np.int64)
    if levels.size and (levels.min() < 0 or levels.max() > 65_535):
        got = f"{levels.min()} to {levels.max()}"
        raise DataError(f"{where}: must have levels in 0 to 65535, got {got}")
    return Image.fromarray(((levels * 255 + 32_767) // 65_535).astype(np.uint8))


class _Guard:
    """Turn whatever a decoder raises on bad bytes into one line that names the picture."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        from PIL import Image

        bad_bytes = (OSError, SyntaxError, ValueError, EOFError, struct.error)
        if isinstance(error, (*bad_bytes, Image.DecompressionBombError)):
            text = " ".join(str(error).split()).replace("<_io.BytesIO object at ", "<")
            if isinstance(error, Image.UnidentifiedImageError):
                text = "no known image format"
            raise DataError(f"{self.where}: must be a readable image, got {text}") from None
