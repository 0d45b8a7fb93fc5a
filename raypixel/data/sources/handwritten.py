"""Handwritten digits: scikit-learn's, MNIST, and the fixed binarization of MNIST.

`digits` are 1,797 images of 8x8 with 17 levels inside scikit-learn, split by a permutation of our own, fixed by a seed whose
stream NumPy has frozen: 1,297 / 250 / 250.

`mnist` is read from its IDX files, each checked against its published MD5; torchvision only downloads them. Validation is the
last 10,000 train images. Unlike torchvision, nothing is unpacked next to the files, so the source may be read-only.

`binarized_mnist` is text, one image a line, 784 values 0 or 1 separated by blanks. Made by Salakhutdinov and Murray (2008),
distributed by Larochelle; the source's `valid` becomes `val`.
"""

import hashlib
from pathlib import Path

import numpy as np

from raypixel.data.sets import DIGITS
from raypixel.data.sources.raw import RawSet, array_split, find_one, read_maybe_gzipped
from raypixel.errors import DataError

_DIGITS_SPLITS = {"train": slice(0, 1297), "val": slice(1297, 1547), "test": slice(1547, 1797)}
_MD5 = {  # of the unpacked files: gzip headers differ from mirror to mirror
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
_FOLDERS = ("MNIST/raw", "raw", ".")
_NUM_TRAIN = 50_000
_NUM_DIMS = 784
_AMAT_SPLITS = {"train": ("train", 50_000), "val": ("valid", 10_000), "test": ("test", 10_000)}
_AMAT_FOLDERS = (".", "binarized_mnist")


def read_digits() -> RawSet:
    """Read the digits and split them."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.RandomState(0).permutation(len(bunch.target))
    images = bunch.images.astype(np.uint8)[order, None]
    labels = bunch.target.astype(np.int64)[order]
    return RawSet(
        image_shape=(1, 8, 8),
        num_levels=17,
        class_names=DIGITS,
        splits={
            name: array_split(images[part], labels[part]) for name, part in _DIGITS_SPLITS.items()
        },
    )


def find_mnist(source: Path) -> list[Path]:
    """Return the four IDX files under torchvision's root, its `MNIST` folder, or `raw` itself.

    Raises:
        DataError: One of them is missing.
    """
    return [find_one(source, _FOLDERS, stem) for stem in _MD5]


def fetch_mnist(folder: Path) -> None:
    """Download MNIST into a folder with torchvision."""
    from raypixel.data.vision import torchvision

    torchvision("datasets").MNIST(folder, download=True)


def read_mnist(files: list[Path]) -> RawSet:
    """Read the four files.

    Raises:
        DataError: A file is damaged or is not the published one.
    """
    images, labels, test_images, test_labels = (_checked(path) for path in files)
    images, test_images = images[:, None], test_images[:, None]
    return RawSet(
        image_shape=(1, 28, 28),
        num_levels=256,
        class_names=DIGITS,
        splits={
            "train": array_split(images[:_NUM_TRAIN], labels[:_NUM_TRAIN].astype(np.int64)),
            "val": array_split(images[_NUM_TRAIN:], labels[_NUM_TRAIN:].astype(np.int64)),
            "test": array_split(test_images, test_labels.astype(np.int64)),
        },
    )


def parse_idx(content: bytes, *, where: str) -> np.ndarray:
    """Read the uint8 array of an IDX file: two zeros, type 8, rank, big-endian sizes, values.

    Raises:
        DataError: The header is not that of a uint8 array, or the values are not as many as it says.
    """
    rank = content[3] if len(content) >= 4 else 0
    if content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * rank:
        raise DataError(f"{where}: must be an IDX file of bytes, got {content[:4].hex()}")
    shape = np.frombuffer(content, ">u4", count=rank, offset=4).astype(int)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
    if len(values) != shape.prod():
        raise DataError(f"{where}: must hold {shape.prod():,} values, got {len(values):,}")
    return values.reshape(shape)


def _checked(path: Path) -> np.ndarray:
    content = read_maybe_gzipped(path)
    expected = _MD5[path.name.removesuffix(".gz")]
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 != expected:
        raise DataError(f"{path}: must have MD5 {expected} when unpacked, got {md5}")
    return parse_idx(content, where=str(path))


def find_binarized_mnist(source: Path) -> list[Path]:
    """Return the train, valid and test files.

    Raises:
        DataError: One of them is missing.
    """
    return [
        find_one(source, _AMAT_FOLDERS, f"binarized_mnist_{theirs}.amat")
        for theirs, _ in _AMAT_SPLITS.values()
    ]


def read_binarized_mnist(files: list[Path]) -> RawSet:
    """Read the three files.

    Raises:
        DataError: A file is damaged or has another number of images.
    """
    splits = {}
    for path, (split_name, (_, num_images)) in zip(files, _AMAT_SPLITS.items(), strict=True):
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
