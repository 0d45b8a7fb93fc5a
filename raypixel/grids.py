"""Images as picture files: the value that a level is drawn as, one image, a grid of many."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from raypixel.errors import RaypixelError, written

if TYPE_CHECKING:
    from PIL.Image import Image

_BORDER = 2
_BORDER_GRAY = 128
_UNKNOWN = (120, 160, 210)
_SMALLEST_SIDE = 64
_ENDINGS = (".png", ".jpg", ".webp")


def image_grid(
    x: Tensor, *, num_levels: int, num_columns: int | None = None, unknown: Tensor | None = None
) -> "Image":
    """Lay images out in rows, small ones enlarged without smoothing so that pixels can be seen.

    Args:
        x: Levels in [0, K-1], (N, C, H, W), C 1 or 3.
        num_levels: K; level K-1 is drawn as 255.
        num_columns: Images in a row; by default the grid is about square.
        unknown: Pixels that have no value, (N, H, W), bool: painted in a color that is no level.

    Raises:
        ValueError: There is no image, or C is neither 1 nor 3.
    """
    from PIL import Image

    count, channels, height, width = x.shape
    if not count or channels not in (1, 3):
        raise ValueError(f"x must hold images of 1 or 3 channels, got shape {tuple(x.shape)}")
    columns = num_columns or math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    scale = max(1, -(-_SMALLEST_SIDE // max(height, width)))
    pixels = gray_values(x, num_levels=num_levels)
    if unknown is not None:
        channels = 3
        pixels = np.broadcast_to(pixels, (count, 3, height, width)).copy()
        hidden = unknown.cpu().numpy()[:, None]
        pixels = np.where(hidden, np.array(_UNKNOWN, dtype=np.uint8)[:, None, None], pixels)
    pixels = pixels.transpose(0, 2, 3, 1).repeat(scale, axis=1).repeat(scale, axis=2)
    cell_height, cell_width = height * scale + _BORDER, width * scale + _BORDER
    sheet = np.full(
        (rows * cell_height + _BORDER, columns * cell_width + _BORDER, channels),
        _BORDER_GRAY,
        dtype=np.uint8,
    )
    for index, image in enumerate(pixels):
        top = _BORDER + index // columns * cell_height
        left = _BORDER + index % columns * cell_width
        sheet[top : top + height * scale, left : left + width * scale] = image
    return Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet)


def gray_values(x: Tensor, *, num_levels: int) -> NDArray[np.uint8]:
    """Return the value of 0 to 255 that each level in [0, K-1] is drawn as: level * 255 / (K - 1), rounded."""
    levels = x.cpu().numpy().astype(np.int64)
    values: NDArray[np.uint8] = (
        (levels * 255 * 2 + num_levels - 1) // (2 * (num_levels - 1))
    ).astype(np.uint8)
    return values


def plain_picture(image: Tensor, *, num_levels: int) -> "Image":
    """Return one image, (C, H, W), with one pixel a pixel."""
    from PIL import Image

    pixels = gray_values(image, num_levels=num_levels).transpose(1, 2, 0)
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def check_picture_path(path: Path) -> None:
    """Refuse a path that no picture can be written to, before the work that makes the picture.

    Raises:
        RaypixelError: The ending is not that of a picture.
    """
    if path.suffix.lower() not in _ENDINGS:
        raise RaypixelError(f"picture must end in {', '.join(_ENDINGS)}, got {path.name!r}")


def save_image(image: "Image", path: Path) -> None:
    """Write a picture; the ending of the path chooses the format.

    Raises:
        RaypixelError: The ending is unknown or the file cannot be written.
    """
    check_picture_path(path)
    with writing(path) as whole:
        image.save(whole)


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Make the folder of a file, and give the name under which a block writes it; it appears complete or not at all.

    Raises:
        RaypixelError: The file cannot be written.
    """
    temporary = path.with_name(f".{os.getpid()}.{path.name}")  # the ending says the format
    with written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
