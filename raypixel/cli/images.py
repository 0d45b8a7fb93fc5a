"""`raypixel complete` and `score`: what a model makes of images."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raypixel.cli.image_options import (
    BATCH_OPTION,
    CLASS_OPTION,
    IMAGES_ARGUMENT,
    INDEX_OPTION,
    ROOT_OPTION,
    SAMPLER_OPTION,
    SEED_OPTION,
    SPLIT_OPTION,
    TEMPERATURE_OPTION,
)
from raypixel.cli.progress import bar, counter, say
from raypixel.cli.use import CHECKPOINT_ARGUMENT, DEVICE_OPTION
from raypixel.storage import Location

if TYPE_CHECKING:
    from raypixel.cli.asked import Images
    from raypixel.model import Model


@click.command()
@CHECKPOINT_ARGUMENT
@IMAGES_ARGUMENT
@SPLIT_OPTION
@INDEX_OPTION
@click.option(
    "--observed",
    default="top-half",
    show_default=True,
    help="top-half, rows:N, columns:N, or a PNG of the images' size whose bright pixels are observed.",
)
@click.option("-n", "num_completions", type=click.IntRange(min=1), default=4, show_default=True)
@SEED_OPTION
@TEMPERATURE_OPTION
@CLASS_OPTION
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("completions.png"),
    show_default=True,
    help="A picture: original, occluded, completions in each row; or an .npz file of levels.",
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
    seed: int,
    temperature: float,
    class_label: int | None,
    out: Path,
    batch_size: int,
    sampler: Any,
    root: Location | None,
    device: str,
) -> None:
    """Draw what an occluded part of images may be.

    Observed pixels are kept exactly. Any pixels may be observed, but an unobserved pixel is drawn given only those BEFORE it in
    raster order (rows from the top, each from the left): what is observed below or to the right of it does not count.
    A multiscale model generates every second pixel of every second row first, so for it "before" means in that order.

    \b
      raypixel complete runs/digits_pixelcnn --split test --index 0:8
      raypixel complete runs/digits_pixelcnn digit.png --observed rows:3 -n 8
    """
    from raypixel.cli.asked import parse_observed
    from raypixel.figures.files import destination, save_arrays
    from raypixel.grids import image_grid, save_image
    from raypixel.model import load

    to = destination(out, has_folders=False)
    model = load(checkpoint, device=device)
    asked = _images(model, images, split, index, root)
    known = parse_observed(observed, model.image_shape)
    total = math.prod(model.image_shape) * math.ceil(len(asked.x) * num_completions / batch_size)
    with bar("completing", unit="sub-pixels") as progress:
        completed = model.complete(
            asked.x,
            known,
            n=num_completions,
            seed=seed,
            temperature=temperature,
            class_label=class_label,
            class_labels=asked.class_labels,
            batch_size=batch_size,
            sampler=sampler,
            progress=counter(progress, total),
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


@click.command()
@CHECKPOINT_ARGUMENT
@IMAGES_ARGUMENT
@SPLIT_OPTION
@INDEX_OPTION
@CLASS_OPTION
@click.option(
    "--per-pixel",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Picture of where each image surprises the model; at most 64 images.",
)
@BATCH_OPTION
@ROOT_OPTION
@DEVICE_OPTION
def score(
    checkpoint: Location,
    images: tuple[Path, ...],
    split: str | None,
    index: str | None,
    class_label: int | None,
    per_pixel: Path | None,
    batch_size: int,
    root: Location | None,
    device: str,
) -> None:
    """Print the exact likelihood of each image, one JSON object a line.

    Files must have the size of the training images. For a model of two levels they are cut at half; if a data set's own
    binarization is drawn at random, one draw is scored, the same each time.

    \b
      raypixel score runs/digits_pixelcnn --split test --index 0:4 --per-pixel surprise.png
      raypixel score runs/digits_pixelcnn one.png two.png
    """
    from raypixel.errors import ConfigError
    from raypixel.figures.canvas import save_figure
    from raypixel.figures.distributions import draw_surprise
    from raypixel.grids import check_picture_path
    from raypixel.model import load

    if per_pixel:
        check_picture_path(per_pixel)
    model = load(checkpoint, device=device)
    asked = _images(model, images, split, index, root)
    if per_pixel and len(asked.x) > 64:
        raise ConfigError(f"--per-pixel must have at most 64 images, got {len(asked.x)}")
    maps = []
    with bar("scoring", unit="images") as progress:
        done = counter(progress, len(asked.x))
        for start in range(0, len(asked.x), batch_size):
            part = slice(start, start + batch_size)
            labels = None if asked.class_labels is None else asked.class_labels[part]
            nats = model.surprise(
                asked.x[part], class_label=class_label, class_labels=labels, batch_size=batch_size
            ).double()
            num_dims = math.prod(model.image_shape)
            for name, total in zip(asked.names[part], nats.flatten(1).sum(1).tolist(), strict=True):
                bits = total / math.log(2) / num_dims
                click.echo(json.dumps({"image": name, "nll_nats": total, "bits_per_dim": bits}))
            if per_pixel:
                maps.append(nats.sum(1))
            done(len(nats))
    if per_pixel:
        import torch

        drawn = draw_surprise(asked.x, torch.cat(maps), num_levels=model.num_levels)
        save_figure(drawn, per_pixel)
        say(str(per_pixel))


def _images(
    model: "Model",
    paths: tuple[Path, ...],
    split: str | None,
    index: str | None,
    root: Location | None,
) -> "Images":
    """Return the images that a command names; say which of the files could not be taken exactly.

    Raises:
        ConfigError: Files and a split are named, or neither.
    """
    from raypixel.cli.asked import read_images, select_images
    from raypixel.errors import ConfigError

    if bool(paths) == (split is not None):
        got = "both" if paths else "neither"
        raise ConfigError(f"images must be given as files or by --split, got {got}")
    if paths:
        if index is not None:
            raise ConfigError("--index must be given with --split, got files")
        images = read_images(model.checkpoint, paths)
        changed = [
            f"{name} ({how})" for name, how in zip(paths, images.changes, strict=True) if how
        ]
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        if changed:
            say(f"changed on the way in: {', '.join(changed[:3])}{more}")
        return images
    assert split is not None
    return select_images(model.checkpoint, split, index, root=root)
