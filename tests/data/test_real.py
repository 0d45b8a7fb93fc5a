"""Golden facts of the real files, as shared/data/README.md and the papers state them."""

import hashlib

import numpy as np
import pytest

from raypixel.data import DataConfig, prepare
from raypixel.data.levels import fix_levels
from raypixel.data.splits import read_split
from raypixel.errors import DataError

pytestmark = [pytest.mark.data, pytest.mark.slow]


def test_mnist_is_the_published_files(real_sets):
    root, manifests = real_sets
    parts = {name: read_split(root, "mnist", name) for name in ("train", "val", "test")}
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 50_000,
        "val": 10_000,
        "test": 10_000,
    }
    images = np.concatenate([parts["train"].images.numpy(), parts["val"].images.numpy()])
    header = bytes.fromhex("00000803 0000ea60 0000001c 0000001c".replace(" ", ""))
    md5 = hashlib.md5(header + images.tobytes(), usedforsecurity=False).hexdigest()
    assert md5 == "6bbc9ace898e44ae57da46a324031adb"
    assert images.mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert parts["train"].class_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert parts["test"].class_labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert manifests["mnist"].num_classes == 10


def test_binarized_mnist_has_the_published_share_of_ones(real_sets):
    root, manifests = real_sets
    shares = {"train": 0.1306, "val": 0.1311, "test": 0.1325}
    for name, share in shares.items():
        part = read_split(root, "binarized_mnist", name)
        assert part.images.shape[1:] == (1, 28, 28)
        assert part.images.max() == 1
        assert part.class_labels is None
        assert part.images.double().mean().item() == pytest.approx(share, abs=5e-5)
    assert manifests["binarized_mnist"].num_levels == 2


def test_binarized_mnist_equals_a_plain_parser_of_its_text(real_data, real_sets):
    import gzip

    path = real_data / "binarized_mnist" / "binarized_mnist_valid.amat.gz"
    with gzip.open(path, "rt") as file:
        lines = [next(file) for _ in range(50)]
    plain = np.array([[int(value) for value in line.split()] for line in lines])
    images = read_split(real_sets[0], "binarized_mnist", "val").images[:50]
    assert np.array_equal(images.reshape(50, 784).numpy(), plain)


def test_cifar10_has_the_known_means_and_classes(real_sets):
    root, manifests = real_sets
    parts = {name: read_split(root, "cifar10", name) for name in ("train", "val", "test")}
    assert [len(part) for part in parts.values()] == [45_000, 5_000, 10_000]
    images = np.concatenate([parts["train"].images.numpy(), parts["val"].images.numpy()])
    means = images.mean((0, 2, 3)) / 255
    assert means == pytest.approx([0.49140, 0.48216, 0.44653], abs=5e-6)
    labels = np.concatenate([part.class_labels.numpy() for part in parts.values()])
    assert np.bincount(labels).tolist() == [6_000] * 10
    assert np.bincount(parts["test"].class_labels).tolist() == [1_000] * 10
    assert manifests["cifar10"].class_names[3] == "cat"


def test_fixed_binarization_of_mnist_has_the_share_of_the_levels(real_sets):
    root, manifests = real_sets
    part = read_split(root, "mnist", "test")
    config = DataConfig(name="mnist", root=root, binarization="fixed")
    fixed = fix_levels(part, config, manifests["mnist"], split_name="test")
    share = part.images.double().mean().item() / 255
    assert fixed.images.double().mean().item() == pytest.approx(share, abs=5e-4)


@pytest.mark.parametrize("below", ["MNIST", "MNIST/raw"])
def test_mnist_is_found_from_each_folder_of_torchvision(real_data, real_sets, tmp_path, below):
    manifest = prepare("mnist", root=tmp_path, source=real_data / "mnist" / below)
    assert manifest.splits == real_sets[1]["mnist"].splits


def test_a_wrong_checksum_is_refused(real_data, tmp_path):
    source = tmp_path / "raw"
    source.mkdir()
    raw = real_data / "mnist" / "MNIST" / "raw"
    for path in raw.iterdir():
        (source / path.name).symlink_to(path)
    wrong = source / "t10k-images-idx3-ubyte.gz"
    wrong.unlink()
    wrong.symlink_to(raw / "train-images-idx3-ubyte.gz")
    text = r"t10k-images-idx3-ubyte.gz: must have MD5 2646ac\w+ when unpacked, got 6bbc9a"
    with pytest.raises(DataError, match=text):
        prepare("mnist", root=tmp_path / "data", source=source)


def test_a_missing_shard_of_cifar10_is_refused(real_data, tmp_path):
    source = tmp_path / "cifar10"
    source.mkdir()
    for path in sorted((real_data / "cifar10").iterdir())[:-1]:
        (source / path.name).symlink_to(path)
    text = r"must hold 50,000 train and 10,000 test images, got .*40,000 train"
    with pytest.raises(DataError, match=text):
        prepare("cifar10", root=tmp_path / "data", source=source)
