import numpy as np
import pytest

from raypixel.data import prepare
from raypixel.data.sources.imagenet import find_imagenet, read_imagenet
from raypixel.data.splits import read_split
from raypixel.errors import DataError


def write(path, count, *, size=32, seed=0, **changes):
    """Write a batch of the published layout and return its images and labels."""
    generator = np.random.default_rng(seed)
    data = generator.integers(0, 256, (count, 3 * size * size), dtype=np.uint8)
    labels = generator.integers(1, 1001, count)
    np.savez(path, **({"data": data, "labels": labels} | changes))
    return data.reshape(count, 3, size, size), labels - 1


@pytest.fixture
def source(tmp_path):
    """Three train batches, the numbers out of alphabetical order, and val_data."""
    folder = tmp_path / "source"
    folder.mkdir()
    parts = [write(folder / f"train_data_batch_{n}.npz", 30 + n, seed=n) for n in range(1, 12)]
    return folder, parts, write(folder / "val_data.npz", 17, seed=99)


def test_splits_are_the_train_batches_in_order_their_last_images_and_val_data(source, tmp_path):
    folder, parts, (test_images, test_labels) = source
    manifest = prepare("imagenet32", root=tmp_path, source=folder)
    images, labels = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    assert len(images) == 396
    train, val, test = (read_split(tmp_path, "imagenet32", n) for n in ("train", "val", "test"))
    assert np.array_equal(train.images, images[:-39])
    assert np.array_equal(train.class_labels, labels[:-39])
    assert np.array_equal(val.images, images[-39:])
    assert np.array_equal(val.class_labels, labels[-39:])
    assert np.array_equal(test.images, test_images)
    assert np.array_equal(test.class_labels, test_labels)
    assert manifest.num_classes == 1000
    assert manifest.image_shape == (3, 32, 32)
    assert prepare("imagenet32", root=tmp_path, source=folder) == manifest


def test_batches_may_be_compressed_have_no_suffix_and_be_64x64(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    images, labels = write(tmp_path / "a.npz", 20, size=64)
    np.savez_compressed(
        tmp_path / "b.npz", data=images.reshape(20, -1), labels=(labels + 1).tolist()
    )
    (tmp_path / "b.npz").rename(folder / "train_data_batch_1")
    (tmp_path / "a.npz").rename(folder / "val_data")
    prepare("imagenet64", root=tmp_path, source=folder)
    assert np.array_equal(read_split(tmp_path, "imagenet64", "train").images, images[:18])
    assert np.array_equal(read_split(tmp_path, "imagenet64", "test").images, images)


def test_a_batch_is_read_in_pieces(tmp_path):
    write(tmp_path / "train_data_batch_1.npz", 6000)
    write(tmp_path / "val_data.npz", 10)
    raw = read_imagenet(tmp_path, find_imagenet(tmp_path), size=32)
    sizes = [len(images) for images, _ in raw.splits["train"].batches()]
    assert sizes == [2730, 2670]


@pytest.mark.parametrize(
    ("lost", "rule"),
    [
        ("train_data_batch_2.npz", r"source: must hold train_data_batch_2.npz, got none"),
        ("val_data.npz", r"source: must hold val_data.npz, got none"),
    ],
)
def test_a_missing_batch_is_named(source, tmp_path, lost, rule):
    (source[0] / lost).unlink()
    with pytest.raises(DataError, match=rule):
        prepare("imagenet32", root=tmp_path, source=source[0])


def test_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    rule = r"file: must be a folder that holds train_data_batch_1.npz, got a file"
    with pytest.raises(DataError, match=rule):
        prepare("imagenet32", root=tmp_path / "data", source=tmp_path / "file")
    with pytest.raises(DataError, match=r"'imagenet64' must be given with --source PATH"):
        prepare("imagenet64", root=tmp_path / "data")


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        (
            {"data": np.zeros((20, 12288), np.uint8)},
            r"data must be \(N, 3072\) uint8 for 32x32 images, got \(20, 12288\) uint8",
        ),
        ({"data": np.zeros((20, 3072))}, r"data must be .*, got \(20, 3072\) float64"),
        ({"labels": np.ones(19, int)}, r"labels must be one for each image, got \(19,\)"),
        ({"labels": np.zeros(20, int)}, r"labels must be in 1 to 1000, got 0 to 0"),
        (
            {"labels": np.array([None] * 20)},
            r"must be an npz file of `data` and `labels`, got labels of \(20,\) object",
        ),
    ],
)
def test_another_layout_is_refused(source, tmp_path, changes, rule):
    write(source[0] / "train_data_batch_3.npz", 20, **changes)
    with pytest.raises(DataError, match=rf"train_data_batch_3.npz: {rule}"):
        prepare("imagenet32", root=tmp_path, source=source[0])


def test_a_pickle_or_a_truncated_file_is_refused_and_leaves_nothing(source, tmp_path):
    path = source[0] / "train_data_batch_1.npz"
    content = bytearray(path.read_bytes())
    for damage in (b"\x80\x04a pickle", bytes(content[:-100])):
        path.write_bytes(damage)
        rule = r"train_data_batch_1.npz: must be an npz file of `data` and `labels`, got .*"
        with pytest.raises(DataError, match=rule):
            prepare("imagenet32", root=tmp_path, source=source[0])
    content[50_000] ^= 255  # seen by the archive's checksum, in the middle of the writing
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"train_data_batch_1.npz: .* got Bad CRC-32"):
        prepare("imagenet32", root=tmp_path, source=source[0])
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_too_few_images_are_refused(tmp_path):
    write(tmp_path / "train_data_batch_1.npz", 9)
    write(tmp_path / "val_data.npz", 9)
    with pytest.raises(DataError, match=r"must hold at least 10 train images, got 9"):
        read_imagenet(tmp_path, find_imagenet(tmp_path), size=32)
