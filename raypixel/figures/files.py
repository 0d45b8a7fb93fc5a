"""Files that images go into: one picture, a folder of PNG files, an .npz file of levels, an animation."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from raypixel.errors import RaypixelError, written
from raypixel.grids import check_picture_path, image_grid, plain_picture, save_image, writing

if TYPE_CHECKING:
    from PIL.Image import Image


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
    contents: dict[str, Any] = {name: value.numpy() for name, value in arrays.items()}
    with writing(path) as whole:
        np.savez_compressed(whole, **contents)


class Animation:
    """A GIF that shows pictures one after another, holds the last, and repeats.

    Each picture is written when the next one comes, as the part that changed: memory does not grow with their number.
    """

    def __init__(self, path: Path, *, seconds_each: float) -> None:
        """Open the file.

        Raises:
            RaypixelError: The path does not end in .gif, or cannot be written.
        """
        if path.suffix.lower() != ".gif":
            raise RaypixelError(f"animation must end in .gif, got {path.name!r}")
        self._duration = max(20, round(1000 * seconds_each))  # players slow down what is faster
        self._path = path
        self._waiting: Image | None = None
        self._shown: Image | None = None
        with written(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb")

    def __enter__(self) -> "Animation":
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            self._write(2000)
            self._file.write(b";")

    def add(self, picture: "Image") -> None:
        """Add a picture, of the size of the first."""
        self._write(self._duration)
        self._waiting = picture

    def _write(self, duration: int) -> None:
        from PIL import ImageChops
        from PIL.GifImagePlugin import getdata, getheader

        picture, shown = self._waiting, self._shown
        if picture is None:
            return
        box: tuple[int, int, int, int] | None = (0, 0, *picture.size)
        if shown is None:
            gray = picture.convert("L")  # whose palette colored frames do not use
            blocks = getheader(gray, info={"loop": 0, "optimize": False})[0]
        else:
            blocks, box = [], ImageChops.difference(picture, shown).getbbox()
        if box is None:  # nothing changed, but the last picture is held all the same
            box = (0, 0, 1, 1)
        part, is_gray = picture.crop(box), picture.mode == "L"
        part = part if is_gray else part.quantize(256)
        blocks += getdata(part, box[:2], duration=duration, include_color_table=not is_gray)
        with written(self._path):
            self._file.writelines(blocks)
        self._shown = picture
