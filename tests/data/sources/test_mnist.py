import gzip

import numpy as np
import pytest

from raypixel.data import prepare
from raypixel.data.sources.mnist import parse_idx
from raypixel.errors import DataError


def idx(array: np.ndarray) -> bytes:
    sizes = np.array(array.shape, ">u4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


@pytest.mark.parametrize("shape", [(5,), (5, 3, 2), (0, 3, 2)])
def test_idx_gives_its_array(shape):
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    assert np.array_equal(parse_idx(idx(array), where="x"), array)


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", r"x: must be an IDX file of bytes, got $"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00", r"x: must be an IDX file of bytes, got 00000d01"),
        (b"\x00\x00\x08\x03\x00\x00", r"x: must be an IDX file of bytes, got 00000803"),
        (idx(np.zeros((5, 3), np.uint8))[:-1], r"x: must hold 15 values, got 14"),
    ],
)
def test_other_bytes_are_refused(content, rule):
    with pytest.raises(DataError, match=rule):
        parse_idx(content, where="x")


def raw_files(folder, content: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stem in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / f"{stem}-ubyte.gz").write_bytes(content)


def test_files_that_are_not_the_published_ones_are_refused(tmp_path):
    raw_files(tmp_path / "MNIST" / "raw", gzip.compress(idx(np.zeros((5, 28, 28), np.uint8))))
    rule = r"raw/train-images-idx3-ubyte.gz: must have MD5 6bbc9ace898e44ae57da46a324031adb when"
    with pytest.raises(DataError, match=rule):
        prepare("mnist", root=tmp_path / "data", source=tmp_path)


def test_a_truncated_file_is_refused(tmp_path):
    raw_files(tmp_path, gzip.compress(bytes(1000))[:-9])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz: must be a whole gzip file"):
        prepare("mnist", root=tmp_path / "data", source=tmp_path)


def test_a_missing_file_is_named(tmp_path):
    raw_files(tmp_path, b"")
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    rule = r"must hold t10k-labels-idx1-ubyte.gz or t10k-labels-idx1-ubyte, got neither"
    with pytest.raises(DataError, match=rule):
        prepare("mnist", root=tmp_path / "data", source=tmp_path)
