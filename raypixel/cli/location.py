"""Options that take a folder of this machine, a place in storage, or the name of a folder."""

import re
from pathlib import Path, PurePath

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


LOCATION = LocationType()
CHECKPOINT = LocationType(must_be_folder=False)
