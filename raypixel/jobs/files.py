"""Where images go: one picture, a folder of PNG files, or an .npz file of levels."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from raypixel.errors import RaypixelError
from raypixel.figures import check_picture_path, image_grid, plain_picture, save_image


@dataclass(frozen=True)
class Destination:
    """Where images go, and in which form.

    Attributes:
        path: The file or the folder.
        form: One picture, a folder of PNG files, or levels as .npz.
    """

    path: Path
    form: Literal["picture", "folder", "arrays"]


def destination(
    text: str | Path, *, has_folders: bool = True, overwrites: bool = False
) -> Destination:
    """Return what a path means; refuse one that cannot be written, before the work that makes the images.

    Args:
        text: An .npz or a picture's path; a name without an ending, with a slash behind it, or of a folder that
            exists, is a folder.
        has_folders: Folders are accepted.
        overwrites: A folder need not be empty.

    Raises:
        RaypixelError: The ending is unknown, there is a file where the folder should be, or the folder is in use.
    """
    path = Path(text)
    if has_folders and (str(text).endswith(("/", os.sep)) or not path.suffix or path.is_dir()):
        if path.exists() and not path.is_dir():
            raise RaypixelError(f"{path}: must be a folder, got a file")
        if path.is_dir() and any(path.iterdir()) and not overwrites:
            got = f"{sum(1 for _ in path.iterdir())} files in it"
            raise RaypixelError(f"{path}: must be empty, unless --overwrite is given, got {got}")
        return Destination(path, "folder")
    if path.suffix == ".npz":
        return Destination(path, "arrays")
    check_picture_path(path)
    return Destination(path, "picture")


def check_gif(path: Path | None) -> None:
    """Refuse an animation's path with another ending.

    Raises:
        RaypixelError: It does not end in .gif.
    """
    if path is not None and path.suffix.lower() != ".gif":
        raise RaypixelError(f"--gif must end in .gif, got {path.name!r}")


def save_images(x: Tensor, to: Destination, *, num_levels: int) -> None:
    """Write images: a grid, one PNG each with one pixel a pixel, or levels.

    Numbered PNG files that an earlier call left in the folder are replaced, all of them; other files stay.

    Raises:
        RaypixelError: The path cannot be written.
    """
    if to.form == "arrays":
        save_arrays(to.path, images=x)
    elif to.form == "picture":
        save_image(image_grid(x, num_levels=num_levels), to.path)
    else:
        for earlier in to.path.glob("*.png") if to.path.is_dir() else ():
            if earlier.stem.isdecimal():
                earlier.unlink()
        digits = len(str(len(x) - 1))
        for k, image in enumerate(x):
            save_image(plain_picture(image, num_levels=num_levels), to.path / f"{k:0{digits}}.png")


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
