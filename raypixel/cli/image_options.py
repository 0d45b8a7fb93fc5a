"""Options that `sample`, `complete` and `score` share."""

import math
from pathlib import Path
from typing import Any

import click

from raypixel.cli.location import LOCATION


class Temperature(click.FloatRange):
    """A positive, finite number."""

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the number; "nan" and "inf" are numbers to click."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


SEED_OPTION = click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
TEMPERATURE_OPTION = click.option(
    "--temperature",
    type=Temperature(),
    default=1.0,
    show_default=True,
    help="Divides the logits: less than 1 sharpens the distribution.",
)
CLASS_OPTION = click.option(
    "--class", "class_label", type=int, help="Class, for a class-conditional model."
)
BATCH_OPTION = click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Images in memory at a time; does not change them.",
)
SAMPLER_OPTION = click.option(
    "--sampler",
    type=click.Choice(["cached", "oracle"]),
    default="cached",
    show_default=True,
    help="oracle runs the whole network for each sub-pixel: hundreds of times slower, the same images.",
)
IMAGES_ARGUMENT = click.argument("images", nargs=-1, type=click.Path(path_type=Path))
SPLIT_OPTION = click.option(
    "--split", type=click.Choice(["train", "val", "test"]), help="Take images from the data set."
)
INDEX_OPTION = click.option("--index", help="Which images of the split, such as 3 or 0:8.")
ROOT_OPTION = click.option(
    "--root",
    type=LOCATION,
    help="Folder of prepared data sets, or s3://BUCKET/NAME; default the one used in training.",
)
OVERWRITE_OPTION = click.option(
    "--overwrite", is_flag=True, help="Replace the images of an earlier run in the folder."
)
