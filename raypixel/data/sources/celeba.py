"""CelebA's aligned faces: the folder `img_align_celeba`, and the official splits where `list_eval_partition.txt` is beside it.

The pictures have 218x178 pixels. The centered 140x140 of them, the face without most of the background, is averaged down
to the size asked for.
"""

from functools import partial
from pathlib import Path

import numpy as np

from raypixel.data.sources.own_images import decoded, divide
from raypixel.data.sources.raw import RawSet, RawSplit, read_bytes
from raypixel.errors import DataError

CROP = 140
DEFAULT_SIZE = (64, 64)
_FOLDER = "img_align_celeba"
_PARTITION = "list_eval_partition.txt"
_SPLITS = {"0": "train", "1": "val", "2": "test"}


def find_celeba(source: Path) -> list[Path]:
    """Return the pictures, sorted, and the list of the official splits, if it is there, first.

    Raises:
        DataError: There are no pictures.
    """
    folder = source / _FOLDER if (source / _FOLDER).is_dir() else source
    pictures = sorted(folder.glob("*.jpg"))
    if not pictures:
        got = "none" if source.exists() else "nothing there"
        raise DataError(f"{source}: must hold the folder {_FOLDER} of .jpg files, got {got}")
    lists = [path / _PARTITION for path in dict.fromkeys((source, folder.parent))]
    return [*[path for path in lists if path.is_file()][:1], *pictures]


def read_celeba(source: Path, files: list[Path], *, size: tuple[int, int] | None) -> RawSet:
    """Plan the reading of the pictures; they are decoded batch by batch.

    Args:
        source: The folder.
        files: As `find_celeba` gives them.
        size: (height, width); 64x64 if None.

    Raises:
        DataError: A picture is in the list or in the folder only, or there are too few.
    """
    image_shape = (3, *(size or DEFAULT_SIZE))
    groups = {"train": files}
    if files[0].name == _PARTITION:
        groups = _official(files[0], files[1:])
    divided = divide({name: len(paths) for name, paths in groups.items()}, where=str(source))

    def split(group: str, positions: np.ndarray) -> RawSplit:
        chosen = [groups[group][position] for position in positions]
        return RawSplit(len(chosen), partial(decoded, chosen, None, image_shape, crop=CROP))

    return RawSet(
        image_shape=image_shape,
        num_levels=256,
        class_names=(),
        splits={name: split(group, positions) for name, (group, positions) in divided.items()},
    )


def _official(partition: Path, pictures: list[Path]) -> dict[str, list[Path]]:
    by_name = {path.name: path for path in pictures}
    groups: dict[str, list[Path]] = {name: [] for name in _SPLITS.values()}
    lines = read_bytes(partition).decode("utf-8", "replace").splitlines()
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2 or words[1] not in _SPLITS:
            rule = "must be a file name and 0, 1 or 2"
            raise DataError(f"{partition}: line {number} {rule}, got {line.strip()[:60]!r}")
        path = by_name.pop(words[0], None)
        if path is None:
            rule = "must name a picture that is there, once"
            raise DataError(f"{partition}: line {number} {rule}, got {words[0]!r}")
        groups[_SPLITS[words[1]]].append(path)
    if by_name:
        raise DataError(f"{partition}: must name every picture, got no line for {min(by_name)}")
    for name, paths in groups.items():
        if not paths:
            raise DataError(f"{partition}: must name pictures of the {name} split, got none")
    return groups
