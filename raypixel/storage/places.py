"""Where things are: a folder of this machine, or a place in storage and the working copy that stands for it here."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath, PurePosixPath

from raypixel.errors import ConfigError, RaypixelError, StorageError
from raypixel.storage.connection import endpoint


class Remote(PurePosixPath):
    """A place in storage: `Remote("s3://bucket/runs") / "name"`."""

    def __str__(self) -> str:
        return "//".join([self.parts[0], "/".join(self.parts[1:])])

    def __fspath__(self) -> str:
        raise TypeError(f"{self} is no file of this machine")

    @property
    def key(self) -> str:
        """Bucket and name, as pyarrow wants them."""
        return "/".join(self.parts[1:])

    @property
    def bucket(self) -> str:
        """Name of the bucket."""
        return self.parts[1]


Location = Path | Remote


def location(text: str | PurePath) -> Location:
    """Read a path or an `s3://` address.

    Raises:
        ConfigError: It is an address of another kind, or has no bucket.
    """
    if isinstance(text, Path | Remote):
        return text
    if not isinstance(text, str | PurePath):  # out of a YAML file
        raise ConfigError(f"a location must be a path or s3://BUCKET/NAME, got {text!r}")
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):/", str(text))
    if scheme is None:
        return Path(text)
    remote = Remote(text)
    if scheme[1] != "s3" or len(remote.parts) < 2 or ".." in remote.parts:
        raise ConfigError(f"a location must be a path or s3://BUCKET/NAME, got {str(text)!r}")
    return remote


def inside(place: Location, name: object) -> Location:
    """Return what a name that comes from outside, such as an object's key, names below a place.

    Raises:
        StorageError: It is no name, or leads out of the place.
    """
    is_name = isinstance(name, str) and name != "" and "\0" not in name
    parts = PurePosixPath(str(name)).parts
    if not is_name or not parts or parts[0] == "/" or ".." in parts:
        raise StorageError(f"{place}: must hold names inside it, got {name!r}")
    return place / str(name)


def absolute(place: Location) -> Location:
    """Return a location that means the same in another working folder."""
    return place if isinstance(place, Remote) else place.resolve()


def cache_folder() -> Path:
    """Return this user's folder of copies: RAYPIXEL_CACHE, or in the home folder."""
    base = os.environ.get("RAYPIXEL_CACHE")
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(base) if base else Path(cache).expanduser() / "raypixel").absolute()


def working_copy(remote: Remote, *, purpose: str) -> Path:
    """Return the folder of this machine that stands for a remote one; it need not be there.

    Args:
        remote: The place.
        purpose: Copies of different purposes do not meet.
    """
    server = hashlib.sha256(endpoint().encode()).hexdigest()[:8] if endpoint() else "aws"
    return cache_folder() / purpose / server / remote.key


def local_folder(place: Location, *, purpose: str) -> Path:
    """Return a folder of this machine as it is, or the working copy of a place in storage."""
    return place if isinstance(place, Path) else working_copy(place, purpose=purpose)


@contextmanager
def named(copy: Path, place: Location) -> Iterator[None]:
    """Let a problem found in a working copy name the place that it stands for."""
    try:
        yield
    except RaypixelError as error:
        if copy == place:
            raise
        problems = [text.replace(str(copy), str(place)) for text in error.problems]
        raise type(error)(problems) from None
