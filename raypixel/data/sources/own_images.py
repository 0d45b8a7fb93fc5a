"""The user's own images: a folder of files, classes from sub-folders, splits from `train/`, `val/`, `test/`.

What the source does not divide is divided here, also for other kinds of sources: by a fixed permutation.
"""

from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Protocol

import numpy as np

from raypixel.data.sources.decoding import Look, agree, decode_all, look
from raypixel.data.sources.raw import RawBatch, RawSet, RawSplit, read_bytes
from raypixel.errors import DataError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm"}
_BATCH_IMAGES = 512
_ALIASES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def find_images(source: Path) -> list[Path]:
    """Return every image file under a folder, sorted; hidden files and folders are left out."""
    return sorted(
        path
        for path in source.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
        and path.is_file()
    )


def read_folder(
    source: Path, files: list[Path], *, size: tuple[int, int] | None, channels: int | None
) -> RawSet:
    """Plan the reading of a folder of images; they are decoded batch by batch.

    Args:
        source: The folder.
        files: Its images, as `find_images` gives them.
        size: (height, width) to crop and scale to; None when all agree.
        channels: 1 or 3; None takes 1 when every image is gray.

    Raises:
        DataError: The images differ in size, the layout is mixed, or there are too few.
    """
    groups, depth = _by_split(source, files)
    labels, class_names = _labels_of(source, groups, depth)
    image_shape = agree(_looks(files), size=size, channels=channels)

    def split(group: str, positions: np.ndarray) -> RawSplit:
        chosen = [groups[group][position] for position in positions]
        chosen_labels = labels[group][positions] if class_names else None
        return RawSplit(
            num_images=len(chosen), batches=lambda: decoded(chosen, chosen_labels, image_shape)
        )

    divided = divide({name: len(paths) for name, paths in groups.items()}, where=str(source))
    return RawSet(
        image_shape=image_shape,
        num_levels=256,
        class_names=class_names,
        splits={name: split(group, positions) for name, (group, positions) in divided.items()},
    )


def _by_split(source: Path, files: list[Path]) -> tuple[dict[str, list[Path]], int]:
    """Return the files of each split, and at which depth below the source their classes are named."""
    named = [split_of_folder(path.relative_to(source)) for path in files]
    if "train" not in named:
        return {"train": files}, 0
    groups: dict[str, list[Path]] = {"train": []}
    for path, split_name in zip(files, named, strict=True):
        if split_name is None:
            rule = f"must lie in a folder train, val or test, because {source} has a train folder"
            raise DataError(f"{path}: {rule}, got {path.relative_to(source).parts[0]!r}")
        groups.setdefault(split_name, []).append(path)
    return groups, 1


def _labels_of(
    source: Path, groups: dict[str, list[Path]], depth: int
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return each split's labels and the class names; one class alone is none."""
    names: dict[str, list[str]] = {}
    for group, paths in groups.items():
        parts = [path.relative_to(source).parts[depth:] for path in paths]
        names[group] = [part[0] if len(part) > 1 else "" for part in parts]
    class_names = tuple(sorted({name for group in names.values() for name in group}))
    if len(class_names) == 1:
        return {}, ()
    if "" in class_names:
        group = next(group for group in names if "" in names[group])
        path = groups[group][names[group].index("")]
        raise DataError(f"{path}: must lie in a class folder like the other images, got none")
    code = {name: number for number, name in enumerate(class_names)}
    return {
        g: np.array([code[name] for name in n], np.int64) for g, n in names.items()
    }, class_names


def _looks(files: list[Path]) -> Iterator[tuple[str, Look]]:
    return ((str(path), look(path, where=str(path))) for path in files)


def decoded(
    paths: list[Path],
    labels: np.ndarray | None,
    image_shape: tuple[int, int, int],
    *,
    crop: int | None = None,
) -> Iterator[RawBatch]:
    """Read and decode files batch by batch; see `decode`."""
    for start in range(0, len(paths), _BATCH_IMAGES):
        part = slice(start, start + _BATCH_IMAGES)
        pictures = [(str(path), read_bytes(path)) for path in paths[part]]
        images = decode_all(pictures, image_shape=image_shape, crop=crop)
        yield images, None if labels is None else labels[part]


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
