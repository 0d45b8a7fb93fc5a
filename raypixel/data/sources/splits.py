"""How the user's images are divided: by the names of folders or files, and the rest by a fixed permutation."""

from pathlib import PurePath
from typing import Protocol

import numpy as np

from raypixel.errors import DataError

_ALIASES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


class DivideFn(Protocol):
    """Choose the images of each split, from the numbers that the source has; see `divide`."""

    def __call__(
        self, num_images: dict[str, int], *, where: str
    ) -> dict[str, tuple[str, np.ndarray]]:
        """Return the source's split and the positions in it, for each split."""


def split_of_folder(path: PurePath) -> str | None:
    """Return the split that the first folder of a relative path names, if it does."""
    return _ALIASES.get(path.parts[0].lower()) if len(path.parts) > 1 else None


def split_of_file(path: PurePath) -> str | None:
    """Return the split that a folder or the first word of the file name (`train-00000...`) names."""
    stem = path.name.split(".")[0].lower()
    words = [part.lower() for part in path.parts[:-1]] + [stem.replace("_", "-").split("-")[0]]
    return next((_ALIASES[word] for word in words if word in _ALIASES), None)


def divide(num_images: dict[str, int], *, where: str) -> dict[str, tuple[str, np.ndarray]]:
    """Choose the images of each split.

    A split that the source does not have is carved from `train`, a tenth of the images for each, by a
    permutation whose stream NumPy has frozen.

    Args:
        num_images: Number of images in each split of the source; always has `train`.
        where: The source, for errors.

    Returns:
        For `train`, `val` and `test`: the source's split and the positions in it, in a fixed shuffled order
        (files come sorted by class, and the first n images should show more than one).

    Raises:
        DataError: There are too few images.
    """
    missing = [name for name in ("val", "test") if name not in num_images]
    total = num_images["train"]
    if total < 1 + len(missing):
        rule = f"must hold at least {1 + len(missing)} images to make splits of"
        raise DataError(f"{where}: {rule}, got {total}")
    chosen = {
        name: (name, np.random.RandomState(0).permutation(count))
        for name, count in num_images.items()
    }
    order, tenth = chosen["train"][1], max(1, total // 10)
    for name in missing:
        chosen[name] = ("train", order[-tenth:])
        order = order[:-tenth]
    chosen["train"] = ("train", order)
    return {name: chosen[name] for name in ("train", "val", "test")}
