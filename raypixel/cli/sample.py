"""`raypixel sample` and `complete`: images drawn from a model, whole or given some of their pixels."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raypixel.cli.common_options import (
    BATCH_OPTION,
    CHECKPOINT_ARGUMENT,
    CLASS_OPTION,
    COUNT,
    DEVICE_OPTION,
    FILE,
    IMAGES_ARGUMENT,
    INDEX_OPTION,
    OVERWRITE_OPTION,
    ROOT_OPTION,
    SAMPLER_OPTION,
    SEED_OPTION,
    TEMPERATURE_OPTION,
    out_option,
    split_option,
)
from raypixel.cli.progress import bar, counter, say
from raypixel.storage import Location

if TYPE_CHECKING:
    from torch import Tensor

    from raypixel.model import Model

GIF_SECONDS = 4.0
MOST_FRAMES = 200


@click.command()
@CHECKPOINT_ARGUMENT
@click.option("-n", "num_images", type=COUNT, default=64, show_default=True)
@SEED_OPTION
@TEMPERATURE_OPTION
@CLASS_OPTION
@out_option(
    "samples.png",
    "A picture of all, a folder/ for one PNG each, or an .npz file of levels.",
    type=str,
)
@OVERWRITE_OPTION
@click.option("--gif", type=FILE, help="Also show the images being written.")
@BATCH_OPTION
@SAMPLER_OPTION
@DEVICE_OPTION
def sample(
    checkpoint: Location,
    num_images: int,
    out: str,
    overwrite: bool,
    gif: Path | None,
    device: str,
    **how: Any,
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
    num_batches = math.ceil(num_images / how["batch_size"])
    total = math.prod(model.image_shape) * num_batches
    rows = model.image_shape[1] * num_batches
    with (
        _film(model, num_images, gif, num_rows=rows) as watch,
        bar("sampling", unit="sub-pixels") as progress,
    ):
        x = model.sample(num_images, progress=counter(progress, total), watch=watch, **how)
    save_images(x, to, num_levels=model.num_levels)
    say(f"{num_images} samples of {model.checkpoint.where}, seed {how['seed']}")
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


@click.command()
@CHECKPOINT_ARGUMENT
@IMAGES_ARGUMENT
@split_option("Take images from the data set.")
@INDEX_OPTION
@click.option(
    "--observed",
    default="top-half",
    show_default=True,
    help="top-half, rows:N, columns:N, or a PNG of the images' size whose bright pixels are observed.",
)
@click.option("-n", "num_completions", type=COUNT, default=4, show_default=True)
@SEED_OPTION
@TEMPERATURE_OPTION
@CLASS_OPTION
@out_option(
    "completions.png",
    "A picture: original, occluded, completions in each row; or an .npz file of levels.",
)
@BATCH_OPTION
@SAMPLER_OPTION
@ROOT_OPTION
@DEVICE_OPTION
def complete(
    checkpoint: Location,
    images: tuple[Path, ...],
    split: str | None,
    index: str | None,
    observed: str,
    num_completions: int,
    out: Path,
    root: Location | None,
    device: str,
    **how: Any,
) -> None:
    """Draw what an occluded part of images may be.

    Observed pixels are kept exactly. Any pixels may be observed, but an unobserved pixel is drawn given only those BEFORE it in
    raster order (rows from the top, each from the left): what is observed below or to the right of it does not count.
    A multiscale model generates every second pixel of every second row first, so for it "before" means in that order.

    \b
      raypixel complete runs/digits_pixelcnn --split test --index 0:8
      raypixel complete runs/digits_pixelcnn digit.png --observed rows:3 -n 8
    """
    from raypixel.cli.asked import asked_images, parse_observed
    from raypixel.figures.files import destination, save_arrays
    from raypixel.grids import image_grid, save_image
    from raypixel.model import load

    to = destination(out, has_folders=False)
    model = load(checkpoint, device=device)
    asked = asked_images(model.checkpoint, images, split, index, root=root)
    known = parse_observed(observed, model.image_shape)
    num_batches = math.ceil(len(asked.x) * num_completions / how["batch_size"])
    total = math.prod(model.image_shape) * num_batches
    with bar("completing", unit="sub-pixels") as progress:
        completed = model.complete(
            asked.x,
            known,
            n=num_completions,
            class_labels=asked.class_labels,
            progress=counter(progress, total),
            **how,
        )  # (N, n, C, H, W)
    if to.form == "arrays":
        save_arrays(out, images=asked.x, observed=known, completions=completed)
    else:
        import torch

        rows = torch.cat([asked.x[:, None], asked.x[:, None], completed], dim=1)
        unknown = torch.zeros(*rows.shape[:2], *rows.shape[3:], dtype=torch.bool)
        unknown[:, 1] = ~known.all(dim=0)
        picture = image_grid(
            rows.flatten(0, 1),
            num_levels=model.num_levels,
            num_columns=rows.shape[1],
            unknown=unknown.flatten(0, 1),
        )
        save_image(picture, out)
        say("in each row: original, occluded, completions")
    click.echo(str(out))
