"""`raypixel sample`: draw images from a model."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raypixel.cli.image_options import (
    BATCH_OPTION,
    CLASS_OPTION,
    OVERWRITE_OPTION,
    SAMPLER_OPTION,
    SEED_OPTION,
    TEMPERATURE_OPTION,
)
from raypixel.cli.progress import bar, counter, say
from raypixel.cli.use import CHECKPOINT_ARGUMENT, DEVICE_OPTION
from raypixel.storage import Location

if TYPE_CHECKING:
    from torch import Tensor

    from raypixel.model import Model

GIF_SECONDS = 4.0
MOST_FRAMES = 200


@click.command()
@CHECKPOINT_ARGUMENT
@click.option("-n", "num_images", type=click.IntRange(min=1), default=64, show_default=True)
@SEED_OPTION
@TEMPERATURE_OPTION
@CLASS_OPTION
@click.option(
    "--out",
    default="samples.png",
    show_default=True,
    help="A picture of all, a folder/ for one PNG each, or an .npz file of levels.",
)
@OVERWRITE_OPTION
@click.option(
    "--gif",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also show the images being written.",
)
@BATCH_OPTION
@SAMPLER_OPTION
@DEVICE_OPTION
def sample(
    checkpoint: Location,
    num_images: int,
    seed: int,
    temperature: float,
    class_label: int | None,
    out: str,
    overwrite: bool,
    gif: Path | None,
    batch_size: int,
    sampler: Any,
    device: str,
) -> None:
    """Draw images from a model.

    Image k depends on the seed and k alone: the same whatever -n and --batch-size are, but for float32 rounding, which can
    turn a near-tie. CHECKPOINT is a checkpoint's or a run's folder.

    \b
      raypixel sample runs/digits_pixelcnn -n 16 --gif writing.gif
      raypixel sample runs/digits_pixelcnn -n 1000 --out samples.npz
    """
    from raypixel.figures.files import check_gif, destination, save_images
    from raypixel.model import load

    to = destination(out, overwrites=overwrite)
    check_gif(gif)
    model = load(checkpoint, device=device)
    num_batches = math.ceil(num_images / batch_size)
    total = math.prod(model.image_shape) * num_batches
    rows = model.image_shape[1] * num_batches
    with (
        _film(model, num_images, gif, num_rows=rows) as watch,
        bar("sampling", unit="sub-pixels") as progress,
    ):
        x = model.sample(
            num_images,
            seed=seed,
            temperature=temperature,
            class_label=class_label,
            batch_size=batch_size,
            sampler=sampler,
            progress=counter(progress, total),
            watch=watch,
        )
    save_images(x, to, num_levels=model.num_levels)
    say(f"{num_images} samples of {model.checkpoint.where}, seed {seed}")
    click.echo(out)
    if gif:
        click.echo(str(gif))


@contextmanager
def _film(
    model: "Model", num_images: int, gif: Path | None, *, num_rows: int
) -> Iterator[Callable[[int, "Tensor"], None] | None]:
    """Give what writes an animation when it is called after each of `num_rows` rows, if there is a path for it."""
    if gif is None:
        yield None
        return
    import torch

    from raypixel.figures.files import Animation
    from raypixel.grids import image_grid

    written = torch.zeros(num_images, *model.image_shape, dtype=torch.uint8)
    every = math.ceil(num_rows / MOST_FRAMES)
    num_calls = 0
    with Animation(gif, seconds_each=GIF_SECONDS * every / num_rows) as animation:

        def watch(start: int, levels: torch.Tensor) -> None:
            nonlocal num_calls
            written[start : start + len(levels)] = levels
            num_calls += 1
            if num_calls % every == 0:
                animation.add(image_grid(written, num_levels=model.num_levels))

        yield watch
        if num_calls % every:
            animation.add(image_grid(written, num_levels=model.num_levels))
