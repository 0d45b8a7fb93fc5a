"""Pictures that people look at: grids of images."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from raypixel.errors import RaypixelError

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
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb")
        except OSError as error:
            raise _not_written(path, error) from None

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
        try:
            self._file.writelines(blocks)
        except OSError as error:
            raise _not_written(self._path, error) from None
        self._shown = picture


def surprise_picture(x: Tensor, nats: Tensor, *, num_levels: int, path: Path) -> None:
    """Draw images beside maps of how much each pixel surprises a model, with a color bar in nats.

    Args:
        x: Levels, (N, C, H, W).
        nats: Nats of each pixel, summed over channels, (N, H, W).
        num_levels: K.
        path: Picture to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    check_picture_path(path)
    count = len(x)
    pairs = min(4, count)  # image and map, image and map, ..
    rows = -(-count // pairs)
    figure = Figure(figsize=(3.2 * pairs + 1, 1.8 * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 2 * pairs, squeeze=False).flatten()
    for axis in axes:
        axis.set_axis_off()
    highest = max(float(nats.max()), 1e-6)
    for k in range(count):
        image = x[k].permute(1, 2, 0).float() / (num_levels - 1)
        axes[2 * k].imshow(image.squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
        shown = axes[2 * k + 1].imshow(nats[k].numpy(), cmap="magma", vmin=0, vmax=highest)
        axes[2 * k + 1].set_title(f"{float(nats[k].sum()):.1f} nats", fontsize=8)
    figure.colorbar(shown, ax=list(axes), label="nats per pixel", shrink=0.8)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise _not_written(path, error) from None


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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    except OSError as error:
        raise _not_written(path, error) from None


def _not_written(path: Path, error: OSError) -> RaypixelError:
    return RaypixelError(f"{path}: cannot be written ({error.strerror or error})")
