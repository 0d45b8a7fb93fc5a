import gzip
import os

import numpy as np
import pytest

from raypixel.data.sources.raw import (
    array_split,
    content_sha256,
    find_one,
    read_bytes,
    read_maybe_gzipped,
    stat_sha256,
)
from raypixel.errors import DataError


def test_batches_add_up_to_the_arrays():
    images = np.arange(10_000, dtype=np.uint16).astype(np.uint8).reshape(10_000, 1, 1, 1)
    split = array_split(images, np.arange(10_000))
    batches = list(split.batches())
    assert split.num_images == 10_000
    assert np.array_equal(np.concatenate([batch[0] for batch in batches]), images)
    assert np.array_equal(np.concatenate([batch[1] for batch in batches]), np.arange(10_000))


def test_packed_and_plain_files_read_alike(tmp_path):
    (tmp_path / "x").write_bytes(b"content")
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"content"))
    assert read_maybe_gzipped(tmp_path / "x") == read_maybe_gzipped(tmp_path / "x.gz") == b"content"


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match=r"x: must be a readable file, got No such file"):
        read_bytes(tmp_path / "x")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no: must be a folder that holds x.gz, got nothing there"):
        find_one(tmp_path / "no", (".",), "x")


def test_names_and_contents_count_and_the_place_and_the_time_do_not(tmp_path):
    for folder, name, text in (("a", "x", "1"), ("b", "x", "1"), ("c", "y", "1"), ("d", "x", "2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(text)
    sums = [
        content_sha256(tmp_path / folder, sorted((tmp_path / folder).iterdir()))
        for folder in "abcd"
    ]
    assert sums[0] == sums[1]
    assert len(set(sums)) == 3


def test_the_quick_checksum_sees_a_new_time(tmp_path):
    path = tmp_path / "x"
    path.write_text("1")
    before = stat_sha256(tmp_path, [path])
    assert stat_sha256(tmp_path, [path]) == before
    os.utime(path, ns=(1, 1))
    assert stat_sha256(tmp_path, [path]) != before
