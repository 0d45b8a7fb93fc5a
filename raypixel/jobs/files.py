"""Where images go: one picture, a folder of PNG files, or an .npz file of levels."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from raypixel.errors import RaypixelError
from raypixel.figures import check_picture_path, image_grid, save_image

if TYPE_CHECKING:
    from PIL import Image


def check_out(path: Path, *, folders: bool = True) -> None:
    """Refuse a path that images cannot be written to, before the work that makes them.

    Raises:
        RaypixelError: The ending is unknown, or there is a file where the folder should be.
    """
    if path.suffix == ".npz":
        return
    if folders and not path.suffix:
        if path.exists() and not path.is_dir():
            raise RaypixelError(f"{path}: must be a folder, got a file")
        return
    check_picture_path(path)


def check_gif(path: Path | None) -> None:
    """Refuse an animation's path with another ending.

    Raises:
        RaypixelError: It does not end in .gif.
    """
    if path is not None and path.suffix.lower() != ".gif":
        raise RaypixelError(f"--gif must end in .gif, got {path.name!r}")


def save_images(x: Tensor, path: Path, *, num_levels: int) -> None:
    """Write images where the path says: a grid, one PNG each with one pixel a pixel, or levels.

    Raises:
        RaypixelError: The path cannot be written.
    """
    if path.suffix == ".npz":
        save_arrays(path, images=x)
    elif path.suffix:
        save_image(image_grid(x, num_levels=num_levels), path)
    else:
        digits = len(str(len(x) - 1))
        for k, image in enumerate(x):
            save_image(_plain(image, num_levels), path / f"{k:0{digits}}.png")


def save_arrays(path: Path, **arrays: Tensor) -> None:
    """Write tensors as one compressed .npz file.

    Raises:
        RaypixelError: The path cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        contents: dict[str, Any] = {name: value.numpy() for name, value in arrays.items()}
        np.savez_compressed(path, **contents)
    except OSError as error:
        raise RaypixelError(f"{path}: cannot be written ({error.strerror or error})") from None


def _plain(image: Tensor, num_levels: int) -> "Image.Image":
    from PIL import Image

    levels = image.numpy().astype(np.int64)
    scaled = (levels * 255 * 2 + num_levels - 1) // (2 * (num_levels - 1))
    pixels = scaled.astype(np.uint8).transpose(1, 2, 0)
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
