import gzip
import re

import numpy as np
import pytest

from raypixel.data import prepare
from raypixel.data.sources.handwritten import parse_amat, parse_idx
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


def lines(count: int, seed: int = 0) -> tuple[np.ndarray, str]:
    rows = np.random.default_rng(seed).integers(0, 2, (count, 784), dtype=np.uint8)
    return rows, "".join(" ".join(str(value) for value in row) + "\n" for row in rows)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text,
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", " \n"),
        lambda text: text.replace(" ", "\t"),
        lambda text: "\n" + text + "\n\n",
    ],
    ids=["plain", "no last newline", "dos", "trailing blank", "tabs", "empty lines"],
)
def test_text_gives_what_int_and_split_give(change):
    rows, text = lines(5)
    assert np.array_equal(parse_amat(change(text).encode(), where="x"), rows)


def test_no_text_gives_no_images():
    assert parse_amat(b"", where="x").shape == (0, 784)


@pytest.mark.parametrize(
    ("odd", "got"), [("2", "2"), ("0.5", ".5"), ("-1", "-1"), ("01", "1"), ("a", "a")]
)
def test_other_text_is_refused_with_its_line(odd, got):
    _, text = lines(3)
    bad = text[: 2 * 784] + odd + text[2 * 784 + 1 :]
    rule = f"x: line 2 must hold 0 and 1 separated by blanks, got '{got}"
    with pytest.raises(DataError, match=re.escape(rule)):
        parse_amat(bad.encode(), where="x")


def test_a_line_of_another_length_is_refused():
    _, text = lines(3)
    with pytest.raises(DataError, match=r"x: line 3 must hold 784 values, got 774"):
        parse_amat(text[:-20].encode(), where="x")
    with pytest.raises(DataError, match=r"x: line 1 must hold 784 values, got 783"):
        parse_amat(text[2:].encode(), where="x")
    with pytest.raises(DataError, match=r"x: line 1 must hold 784 values, got 1568"):
        parse_amat(text.replace("\n", " ", 1).encode(), where="x")


PACKED = gzip.compress(lines(2)[1].encode())


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (PACKED, r"must hold 50,000 images, got 2"),
        (PACKED[: len(PACKED) // 2], r"must be a whole gzip file, got Compressed file ended"),
        (b"not gzip", r"must be a whole gzip file, got Not a gzipped file"),
        (PACKED[:40] + bytes(20) + PACKED[60:], r"must be a whole gzip file, got"),
        (gzip.compress(b"0 1\n"), r"line 1 must hold 784 values, got 2"),
    ],
    ids=["few images", "truncated", "no gzip", "damaged", "short line"],
)
def test_a_damaged_file_is_named(tmp_path, content, rule):
    for name in ("train", "valid", "test"):
        (tmp_path / f"binarized_mnist_{name}.amat.gz").write_bytes(content)
    with pytest.raises(DataError, match=rf"binarized_mnist_train.amat.gz: {rule}"):
        prepare("binarized_mnist", root=tmp_path / "data", source=tmp_path)
    assert not (tmp_path / "data" / "binarized_mnist").exists()


def test_a_missing_text_is_named(tmp_path):
    (tmp_path / "binarized_mnist_train.amat").write_text(lines(2)[1])
    rule = r"must hold binarized_mnist_valid.amat.gz or binarized_mnist_valid.amat, got neither"
    with pytest.raises(DataError, match=rule):
        prepare("binarized_mnist", root=tmp_path / "data", source=tmp_path)


def test_a_source_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "x.amat").write_text("")
    with pytest.raises(DataError, match=r"x.amat: must be a folder that holds .*, got a file"):
        prepare("binarized_mnist", root=tmp_path / "data", source=tmp_path / "x.amat")
