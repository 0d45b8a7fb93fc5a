"""The fixed binarization of MNIST: text, one image a line, 784 values 0 or 1 separated by blanks.

Made by Salakhutdinov and Murray (2008), distributed by Larochelle; the source's `valid` becomes `val`.
"""

from pathlib import Path

import numpy as np

from raypixel.data.sources.raw import RawSet, array_split, find_one, read_maybe_gzipped
from raypixel.errors import DataError

_NUM_DIMS = 784
_SPLITS = {"train": ("train", 50_000), "val": ("valid", 10_000), "test": ("test", 10_000)}
_FOLDERS = (".", "binarized_mnist")


def find_binarized_mnist(source: Path) -> list[Path]:
    """Return the train, valid and test files.

    Raises:
        DataError: One of them is missing.
    """
    return [
        find_one(source, _FOLDERS, f"binarized_mnist_{theirs}.amat")
        for theirs, _ in _SPLITS.values()
    ]


def read_binarized_mnist(files: list[Path]) -> RawSet:
    """Read the three files.

    Raises:
        DataError: A file is damaged or has another number of images.
    """
    splits = {}
    for path, (split_name, (_, num_images)) in zip(files, _SPLITS.items(), strict=True):
        rows = parse_amat(read_maybe_gzipped(path), where=str(path))
        if len(rows) != num_images:
            raise DataError(f"{path}: must hold {num_images:,} images, got {len(rows):,}")
        splits[split_name] = array_split(rows.reshape(-1, 1, 28, 28), None)
    return RawSet(image_shape=(1, 28, 28), num_levels=2, class_names=(), splits=splits)


def parse_amat(text: bytes, *, where: str) -> np.ndarray:
    """Read lines of 784 zeros and ones.

    Works on the bytes as one array: a generic number parser takes minutes for 39 million values.

    Returns:
        Levels 0 and 1, (N, 784), uint8.

    Raises:
        DataError: Something else than 0, 1 and blanks, or a line of another length.
    """
    raw = np.frombuffer(text, np.uint8)
    is_value = (raw | 1) == ord("1")
    is_blank = (raw == ord(" ")) | (raw == ord("\n")) | (raw == ord("\r")) | (raw == ord("\t"))
    odd = ~(is_value | is_blank)
    odd[1:] |= is_value[1:] & is_value[:-1]  # "10" is one number, not two
    if odd.any():
        start = int(odd.argmax())
        line = 1 + text.count(b"\n", 0, start)
        got = text[start : start + 12].split(b"\n")[0].decode("latin-1")
        raise DataError(f"{where}: line {line} must hold 0 and 1 separated by blanks, got {got!r}")
    starts = np.append(0, np.flatnonzero(raw == ord("\n")) + 1)
    starts = starts[starts < len(raw)]
    per_line = np.add.reduceat(is_value, starts, dtype=np.int32) if len(starts) else starts
    wrong = np.flatnonzero((per_line != _NUM_DIMS) & (per_line != 0))
    if len(wrong):
        got = per_line[wrong[0]]
        raise DataError(f"{where}: line {wrong[0] + 1} must hold {_NUM_DIMS} values, got {got}")
    return (raw[is_value] - ord("0")).reshape(-1, _NUM_DIMS)
