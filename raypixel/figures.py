"""Pictures that people look at: grids of images."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
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
    # to 255 with rounding, in integers: level * 255 / (K - 1)
    levels = x.cpu().numpy().astype(np.int64)
    pixels = ((levels * 255 * 2 + num_levels - 1) // (2 * (num_levels - 1))).astype(np.uint8)
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


def save_animation(frames: "list[Image]", path: Path, *, seconds: float = 4.0) -> None:
    """Write a GIF that shows pictures one after another, holds the last, and repeats.

    Raises:
        RaypixelError: The path does not end in .gif, or cannot be written.
    """
    if path.suffix.lower() != ".gif":
        raise RaypixelError(f"animation must end in .gif, got {path.name!r}")
    duration = max(20, round(1000 * seconds / len(frames)))
    durations = [duration] * (len(frames) - 1) + [2000]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0)
    except OSError as error:
        raise RaypixelError(f"{path}: cannot be written ({error.strerror or error})") from None


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
        raise RaypixelError(f"{path}: cannot be written ({error.strerror or error})") from None


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
        raise RaypixelError(f"{path}: cannot be written ({error.strerror or error})") from None
