"""CIFAR-10, from Hugging Face parquet or from torchvision's `cifar-10-batches-py`.

Validation is the last 5,000 train images, in the source's own order. The parquet files have no published checksum, so what is
checked is the shape, the counts and the class names; torchvision checks its files against their MD5.
"""

from pathlib import Path

import numpy as np

from raypixel.data.sets import CIFAR10_CLASSES
from raypixel.data.sources.parquet import find_parquet, read_parquet
from raypixel.data.sources.raw import RawSet, array_split
from raypixel.errors import DataError

_BATCHES = "cifar-10-batches-py"
_SHAPE = (3, 32, 32)
_COUNTS = {"train": 50_000, "test": 10_000}
_NUM_TRAIN = 45_000


def find_cifar10(source: Path) -> list[Path]:
    """Return the files of `cifar-10-batches-py`, or else the parquet files.

    Raises:
        DataError: There are neither.
    """
    files = sorted(path for path in (source / _BATCHES).glob("*") if path.is_file())
    files = files or find_parquet(source)
    if not files:
        got = "neither" if source.exists() else "nothing there"
        raise DataError(f"{source}: must hold parquet files or the folder {_BATCHES}, got {got}")
    return files


def fetch_cifar10(folder: Path) -> None:
    """Download CIFAR-10 into a folder with torchvision."""
    from raypixel.data.vision import torchvision

    torchvision("datasets").CIFAR10(folder, download=True)
    (folder / "cifar-10-python.tar.gz").unlink(missing_ok=True)


def read_cifar10(source: Path, files: list[Path]) -> RawSet:
    """Read either layout.

    Raises:
        DataError: A file is damaged, or the images are not those of CIFAR-10.
    """
    if files[0].suffix != ".parquet":
        return _read_batches(source)
    raw = read_parquet(source, files, size=None, channels=None, divide_fn=_divide)
    check_cifar10(raw, where=str(source))
    return raw


def check_cifar10(raw: RawSet, *, where: str) -> None:
    """Refuse images that are not those of CIFAR-10.

    Raises:
        DataError: The shape or the classes differ.
    """
    if raw.image_shape != _SHAPE:
        raise DataError(f"{where}: images must be {_SHAPE}, got {raw.image_shape}")
    if raw.class_names != CIFAR10_CLASSES:
        raise DataError(f"{where}: classes must be those of CIFAR-10, got {raw.class_names}")


def _divide(num_images: dict[str, int], *, where: str) -> dict[str, tuple[str, np.ndarray]]:
    if num_images != _COUNTS:
        raise DataError(f"{where}: must hold {_text(_COUNTS)} images, got {_text(num_images)}")
    return {
        "train": ("train", np.arange(_NUM_TRAIN)),
        "val": ("train", np.arange(_NUM_TRAIN, _COUNTS["train"])),
        "test": ("test", np.arange(_COUNTS["test"])),
    }


def _text(counts: dict[str, int]) -> str:
    return " and ".join(f"{count:,} {name}" for name, count in counts.items())


def _read_batches(source: Path) -> RawSet:
    from raypixel.data.vision import torchvision

    def part(*, is_train: bool) -> tuple[np.ndarray, np.ndarray]:
        try:
            loaded = torchvision("datasets").CIFAR10(source, train=is_train)
        except (RuntimeError, OSError, EOFError) as error:
            got = " ".join(str(error).split("You can use")[0].split())
            raise DataError(
                f"{source / _BATCHES}: must be torchvision's CIFAR-10 files, got {got}"
            ) from None
        return loaded.data.transpose(0, 3, 1, 2), np.array(loaded.targets, np.int64)

    images, labels = part(is_train=True)
    return RawSet(
        image_shape=_SHAPE,
        num_levels=256,
        class_names=CIFAR10_CLASSES,
        splits={
            "train": array_split(images[:_NUM_TRAIN], labels[:_NUM_TRAIN]),
            "val": array_split(images[_NUM_TRAIN:], labels[_NUM_TRAIN:]),
            "test": array_split(*part(is_train=False)),
        },
    )
