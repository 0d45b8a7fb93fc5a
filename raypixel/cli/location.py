"""Options that take a folder of this machine or a place in storage."""

from pathlib import Path, PurePath

import click

from raypixel.errors import ConfigError
from raypixel.storage import Location, location


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


LOCATION = LocationType()
CHECKPOINT = LocationType(must_be_folder=False)
