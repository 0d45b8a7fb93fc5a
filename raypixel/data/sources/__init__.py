"""Where images come from: one file for each kind of source, each giving a `RawSet`; which one a name of a data set means."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from raypixel.data.sources.celeba import find_celeba, read_celeba
from raypixel.data.sources.cifar10 import fetch_cifar10, find_cifar10, read_cifar10
from raypixel.data.sources.handwritten import (
    fetch_mnist,
    find_binarized_mnist,
    find_mnist,
    read_binarized_mnist,
    read_digits,
    read_mnist,
)
from raypixel.data.sources.imagenet import find_imagenet, read_imagenet
from raypixel.data.sources.own_images import find_images, read_folder
from raypixel.data.sources.parquet import find_parquet, read_parquet
from raypixel.data.sources.raw import RawSet
from raypixel.errors import DataError


@dataclass(frozen=True)
class SourceReader:
    """Read one kind of source.

    Attributes:
        find: From the source's path to the files that are read.
        read: From the path and those files to the images.
        fetch: Downloads the source into a folder; None when that is not possible.
    """

    find: Callable[[Path], list[Path]]
    read: Callable[[Path, list[Path]], RawSet]
    fetch: Callable[[Path], None] | None = None


def reader_of(name: str, *, size: tuple[int, int] | None, channels: int | None) -> SourceReader:
    """Return the reader of a data set; a name of no known set means the user's own images."""
    known = {
        "digits": SourceReader(find=lambda _: [], read=lambda *_: read_digits()),
        "mnist": SourceReader(
            find=find_mnist, read=lambda _, files: read_mnist(files), fetch=fetch_mnist
        ),
        "binarized_mnist": SourceReader(
            find=find_binarized_mnist, read=lambda _, files: read_binarized_mnist(files)
        ),
        "cifar10": SourceReader(find=find_cifar10, read=read_cifar10, fetch=fetch_cifar10),
        "imagenet32": SourceReader(find=find_imagenet, read=partial(read_imagenet, size=32)),
        "imagenet64": SourceReader(find=find_imagenet, read=partial(read_imagenet, size=64)),
        "celeba": SourceReader(find=find_celeba, read=partial(read_celeba, size=size)),
    }

    def read_own(source: Path, files: list[Path]) -> RawSet:
        read = read_parquet if files[0].suffix == ".parquet" else read_folder
        return read(source, files, size=size, channels=channels)

    return known.get(name) or SourceReader(find=_find_own, read=read_own)


def _find_own(source: Path) -> list[Path]:
    tables = find_parquet(source)
    images = find_images(source) if source.is_dir() else []
    if bool(tables) == bool(images):
        got = "both" if tables else ("neither" if source.exists() else "nothing there")
        raise DataError(f"{source}: must hold either image files or parquet files, got {got}")
    return tables or images
