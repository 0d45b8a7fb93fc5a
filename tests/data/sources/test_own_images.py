from pathlib import PurePath

import numpy as np
import pytest
from PIL import Image

from raypixel.data import prepare
from raypixel.data.sources.own_images import divide, split_of_file, split_of_folder
from raypixel.data.splits import read_split
from raypixel.errors import DataError

from ..conftest import write_images


def splits_of(root, name="own"):
    return {split: read_split(root, name, split) for split in ("train", "val", "test")}


def test_classes_are_sub_folders_and_every_image_keeps_its_own(tmp_path):
    source, truth = tmp_path / "source", {}
    for label, name in enumerate(["apple", "bee", "cat"]):
        for array in write_images(source / name, 10, seed=label):
            truth[np.ascontiguousarray(array.transpose(2, 0, 1)).tobytes()] = label
    manifest = prepare("own", root=tmp_path, source=source)
    assert manifest.class_names == ("apple", "bee", "cat")
    assert manifest.num_classes == 3
    parts = splits_of(tmp_path)
    assert [len(part) for part in parts.values()] == [24, 3, 3]
    seen = {}
    for part in parts.values():
        for image, label in zip(part.images, part.class_labels, strict=True):
            seen[image.numpy().tobytes()] = int(label)
    assert seen == truth
    assert len(set(parts["train"].class_labels[:8].tolist())) > 1


def test_splits_are_sub_folders(tmp_path):
    source = tmp_path / "source"
    for number, (split, count) in enumerate({"train": 10, "valid": 4, "test": 3}.items()):
        for label, name in enumerate(["a", "b"]):
            write_images(source / split / name, count, seed=10 * number + label, mode="L")
    manifest = prepare("own", root=tmp_path, source=source)
    assert {name: split.num_images for name, split in manifest.splits.items()} == {
        "train": 20,
        "val": 8,
        "test": 6,
    }
    assert manifest.image_shape == (1, 4, 5)
    assert manifest.class_names == ("a", "b")
    for part in splits_of(tmp_path).values():
        assert np.bincount(part.class_labels).tolist() == [len(part) // 2] * 2


def test_a_missing_split_is_carved_from_train(tmp_path):
    write_images(tmp_path / "source" / "train", 20)
    write_images(tmp_path / "source" / "test", 5, seed=1)
    manifest = prepare("own", root=tmp_path, source=tmp_path / "source")
    assert [split.num_images for split in manifest.splits.values()] == [18, 2, 5]
    assert manifest.num_classes == 0


def test_one_sub_folder_alone_is_no_class(tmp_path):
    write_images(tmp_path / "source" / "img_align", 10)
    assert prepare("own", root=tmp_path, source=tmp_path / "source").class_names == ()


def test_a_folder_called_test_is_a_class_when_there_is_no_train(tmp_path):
    write_images(tmp_path / "source" / "test", 10)
    write_images(tmp_path / "source" / "quiz", 10, seed=1)
    manifest = prepare("own", root=tmp_path, source=tmp_path / "source")
    assert manifest.class_names == ("quiz", "test")


def test_other_and_hidden_files_are_left_out(tmp_path):
    source = tmp_path / "source"
    write_images(source, 10)
    write_images(source / ".cache", 10, seed=1)
    (source / "notes.txt").write_text("hello")
    (source / "._000.png").write_bytes(b"no image")
    manifest = prepare("own", root=tmp_path, source=source)
    assert sum(split.num_images for split in manifest.splits.values()) == 10


def test_size_and_channels_are_applied_to_mixed_images(tmp_path):
    source = tmp_path / "source"
    write_images(source / "a", 5, size=(9, 7))
    write_images(source / "b", 5, size=(6, 12), mode="RGBA")
    write_images(source / "c", 5, size=(3, 3), mode="L")
    manifest = prepare("own", root=tmp_path, source=source, size=(4, 6))
    assert manifest.image_shape == (3, 4, 6)
    gray = prepare("gray", root=tmp_path, source=source, size=(4, 6), channels=1)
    assert gray.image_shape == (1, 4, 6)
    assert splits_of(tmp_path, "gray")["train"].images.shape == (13, 1, 4, 6)


def test_images_of_different_size_are_refused_by_name(tmp_path):
    write_images(tmp_path / "source", 10)
    Image.new("RGB", (8, 9)).save(tmp_path / "source" / "005.png")
    rule = r"005.png: must be 4x5 like .*000.png, unless --size is given, got 9x8"
    with pytest.raises(DataError, match=rule):
        prepare("own", root=tmp_path, source=tmp_path / "source")


def test_an_image_outside_the_splits_is_refused(tmp_path):
    write_images(tmp_path / "source" / "train", 10)
    write_images(tmp_path / "source" / "extra", 1)
    rule = r"000.png: must lie in a folder train, val or test, because .* got 'extra'"
    with pytest.raises(DataError, match=rule):
        prepare("own", root=tmp_path, source=tmp_path / "source")


def test_an_image_outside_the_classes_is_refused(tmp_path):
    write_images(tmp_path / "source" / "a", 10)
    write_images(tmp_path / "source", 1)
    rule = r"source/000.png: must lie in a class folder like the other images, got none"
    with pytest.raises(DataError, match=rule):
        prepare("own", root=tmp_path, source=tmp_path / "source")


def test_too_few_images_are_refused(tmp_path):
    write_images(tmp_path / "source", 2)
    with pytest.raises(DataError, match=r"source: must hold at least 3 images .*, got 2"):
        prepare("own", root=tmp_path, source=tmp_path / "source")


def test_a_file_that_is_no_picture_is_named(tmp_path):
    write_images(tmp_path / "source", 5)
    (tmp_path / "source" / "003.png").write_bytes(b"no image")
    for size in (None, (4, 4)):
        with pytest.raises(DataError, match=r"003.png: must be a readable image, got no known"):
            prepare("own", root=tmp_path, source=tmp_path / "source", size=size, channels=3)


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
def test_too_few_images_cannot_be_divided(given, text):
    with pytest.raises(DataError, match=text):
        divide(given, where="x")
