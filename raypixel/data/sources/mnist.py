"""MNIST from its IDX files, each checked against its published MD5; torchvision only downloads them.

Validation is the last 10,000 train images. Unlike torchvision, nothing is unpacked next to the files, so the source may
be read-only.
"""

import hashlib
from pathlib import Path

import numpy as np

from raypixel.data.catalog import DIGITS
from raypixel.data.sources.raw import RawSet, array_split, find_one, read_maybe_gzipped
from raypixel.errors import DataError

_MD5 = {  # of the unpacked files: gzip headers differ from mirror to mirror
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
_FOLDERS = ("MNIST/raw", "raw", ".")
_NUM_TRAIN = 50_000


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
