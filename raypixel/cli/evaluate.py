"""`raypixel evaluate` and `score`: the exact likelihood of a split, and of each of some images."""

import json
import math
from pathlib import Path

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
    ROOT_OPTION,
    LocationType,
    split_option,
)
from raypixel.cli.progress import bar, counter, say
from raypixel.storage import Location


@click.command()
@click.argument("checkpoint", nargs=-1, required=True, type=LocationType(must_be_folder=False))
@split_option("Images to score.", default="test")
@ROOT_OPTION
@click.option("--batch-size", type=COUNT, help="Images at a time; default as in training.")
@DEVICE_OPTION
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each.")
def evaluate(
    checkpoint: tuple[Location, ...],
    split: str,
    root: Location | None,
    device: str,
    batch_size: int | None,
    as_json: bool,
) -> None:
    """Compute the exact likelihood of a data set's split.

    CHECKPOINT is a checkpoint's folder, or a run's folder (its best checkpoint is used), also under s3://, or zoo:NAME. Of
    several, also that of their mixture: the mean of their probabilities of each image.
    """
    from raypixel.evaluation import evaluate_splits
    from raypixel.runs import find_checkpoint

    found = [find_checkpoint(place) for place in checkpoint]
    with bar(f"evaluating {split}", unit="images") as progress:
        results = evaluate_splits(
            found,
            split,
            root=root,
            device_name=device,
            batch_size=batch_size,
            progress=lambda total: counter(progress, total),
        )
    for result in results:
        if as_json:
            click.echo(json.dumps(result.to_mapping()))
            continue
        likelihood, name = result.likelihood, ""
        if len(results) > 1:
            mixed = f"mixture of {len(found)}"
            name = f"{mixed if result.checkpoint is None else result.checkpoint}: "
        click.echo(
            f"{name}{result.data_name} ({result.levels}), {split} split, "
            f"{likelihood.num_images:,} images\n"
            f"  {likelihood.bits_per_dim:.4f} bits/dim\n"
            f"  {likelihood.nats_per_image:.3f} nats, standard error "
            f"{likelihood.standard_error_nats:.3f}"
        )


@click.command()
@CHECKPOINT_ARGUMENT
@IMAGES_ARGUMENT
@split_option("Take images from the data set.")
@INDEX_OPTION
@CLASS_OPTION
@click.option(
    "--per-pixel",
    type=FILE,
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
    from raypixel.cli.asked import asked_images
    from raypixel.errors import ConfigError
    from raypixel.figures.canvas import save_figure
    from raypixel.figures.distributions import draw_surprise
    from raypixel.grids import check_picture_path
    from raypixel.model import load

    if per_pixel:
        check_picture_path(per_pixel)
    model = load(checkpoint, device=device)
    asked = asked_images(model.checkpoint, images, split, index, root=root)
    if per_pixel and len(asked.x) > 64:
        raise ConfigError(f"--per-pixel must have at most 64 images, got {len(asked.x)}")
    num_dims, maps = math.prod(model.image_shape), []
    with bar("scoring", unit="images") as progress:
        done = counter(progress, len(asked.x))
        for start in range(0, len(asked.x), batch_size):
            part = slice(start, start + batch_size)
            labels = None if asked.class_labels is None else asked.class_labels[part]
            nats = model.surprise(
                asked.x[part], class_label=class_label, class_labels=labels, batch_size=batch_size
            ).double()
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
