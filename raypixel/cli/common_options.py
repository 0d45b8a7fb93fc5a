"""The options of all commands, each declared once, and the types of their values."""

import math
import re
from pathlib import Path, PurePath
from typing import Any

import click

from raypixel.errors import ConfigError
from raypixel.storage import Location, location

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class LocationType(click.ParamType):
    """A path, or `s3://BUCKET/NAME`: click's own type would make `s3:/BUCKET/NAME` of it."""

    name = "location"

    def __init__(self, *, must_be_folder: bool = True) -> None:
        self.must_be_folder = must_be_folder

    def convert(
        self, value: str | PurePath, param: click.Parameter | None, ctx: click.Context | None
    ) -> Location:
        """Read it; see `location`."""
        try:
            place = location(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)
        if self.must_be_folder and isinstance(place, Path) and place.is_file():
            self.fail(f"Directory {str(place)!r} is a file.", param, ctx)
        return place


class RunName(click.ParamType):
    """The name of a folder below --runs: one part of a path, as experiments and sweeps are named."""

    name = "name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name; "../x" would lead elsewhere."""
        if not NAME.fullmatch(value):
            rule = "letters, digits, '.', '_' or '-', starting with a letter or digit"
            self.fail(f"{value!r} is not a name of {rule}.", param, ctx)
        return value


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


PATH, FILE = click.Path(path_type=Path), click.Path(path_type=Path, dir_okay=False)
COUNT = click.IntRange(min=1)

# --- what a command is about ---

CHECKPOINT_ARGUMENT = click.argument("checkpoint", type=LocationType(must_be_folder=False))
IMAGES_ARGUMENT = click.argument("images", nargs=-1, type=PATH)
SET_OPTION = click.option(
    "--set",
    "assignments",
    metavar="KEY=VALUE",
    multiple=True,
    help="Change one option, for example model.hidden_size=64. Repeatable.",
)
RUNS_OPTION = click.option(
    "--runs",
    type=LocationType(),
    default=Path("runs"),
    show_default=True,
    help="Folder that holds the runs, or s3://BUCKET/NAME.",
)
ROOT_OPTION = click.option(
    "--root",
    type=LocationType(),
    help="Folder of prepared data sets, or s3://BUCKET/NAME; default the one used in training.",
)
DATA_ROOT_OPTION = click.option(
    "--root",
    type=LocationType(),
    default=Path("data"),
    show_default=True,
    help="Folder of prepared data sets, or s3://BUCKET/NAME.",
)
INDEX_OPTION = click.option("--index", help="Which images of the split, such as 3 or 0:8.")


def split_option(meaning: str, *, default: str | None = None) -> Any:
    """Return `--split`."""
    splits = click.Choice(["train", "val", "test"])
    return click.option("--split", type=splits, default=default, show_default=True, help=meaning)


# --- how it computes ---

ADDRESS_OPTION = click.option(
    "--address", help="Ray cluster to join; default RAY_ADDRESS, else a private one."
)
DEVICE_OPTION = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to compute.",
)
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
    type=COUNT,
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
OVERWRITE_OPTION = click.option(
    "--overwrite", is_flag=True, help="Replace the images of an earlier run in the folder."
)


def out_option(default: str, meaning: str, **more: Any) -> Any:
    """Return `--out`, a file unless `more` says otherwise."""
    known: dict[str, Any] = {
        "type": FILE,
        "default": default,
        "show_default": True,
        "help": meaning,
    }
    return click.option("--out", **(known | more))


def make_folder(place: Location) -> None:
    """Make the folder that results go into, before the work that they come from.

    Raises:
        ConfigError: It cannot be made.
    """
    if not isinstance(place, Path):
        return
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{place}: must be a folder that can be made, got {error.strerror}"
        ) from None
