from pathlib import PurePath

import pytest

from raypixel.data.sources.splits import divide, split_of_file, split_of_folder
from raypixel.errors import DataError


@pytest.mark.parametrize(
    ("path", "split_name"),
    [
        ("train/cat/a.png", "train"),
        ("Valid/a.png", "val"),
        ("validation/a.png", "val"),
        ("test/a.png", "test"),
        ("cat/train/a.png", None),
        ("train.png", None),
    ],
)
def test_folders_name_splits(path, split_name):
    assert split_of_folder(PurePath(path)) == split_name


@pytest.mark.parametrize(
    ("path", "split_name"),
    [
        ("train-00000-of-00005.parquet", "train"),
        ("test.parquet", "test"),
        ("data/validation-00000-of-00001-0a1b.parquet", "val"),
        ("val_0.parquet", "val"),
        ("default/train/0000.parquet", "train"),
        ("trainer-0.parquet", None),
        ("0000.parquet", None),
    ],
)
def test_files_name_splits(path, split_name):
    assert split_of_file(PurePath(path)) == split_name


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"train": 100}, {"train": 80, "val": 10, "test": 10}),
        ({"train": 3}, {"train": 1, "val": 1, "test": 1}),
        ({"train": 100, "test": 7}, {"train": 90, "val": 10, "test": 7}),
        ({"train": 100, "val": 7}, {"train": 90, "val": 7, "test": 10}),
        ({"train": 100, "val": 7, "test": 8}, {"train": 100, "val": 7, "test": 8}),
    ],
)
def test_every_image_is_in_exactly_one_split(given, expected):
    divided = divide(given, where="x")
    assert list(divided) == ["train", "val", "test"]
    assert {name: len(positions) for name, (_, positions) in divided.items()} == expected
    seen = sorted((group, int(p)) for group, positions in divided.values() for p in positions)
    assert seen == sorted((group, p) for group, count in given.items() for p in range(count))


def test_the_division_is_the_same_every_time():
    first, again = divide({"train": 50}, where="x"), divide({"train": 50}, where="x")
    assert {n: p.tolist() for n, (_, p) in first.items()} == {
        n: p.tolist() for n, (_, p) in again.items()
    }


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"train": 2}, r"x: must hold at least 3 images to make splits of, got 2"),
        ({"train": 1, "test": 4}, r"x: must hold at least 2 images to make splits of, got 1"),
        ({"train": 0, "val": 1, "test": 1}, r"x: must hold at least 1 images"),
    ],
)
def test_too_few_images_are_refused(given, text):
    with pytest.raises(DataError, match=text):
        divide(given, where="x")
