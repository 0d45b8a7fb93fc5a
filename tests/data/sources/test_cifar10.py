import numpy as np
import pytest

from raypixel.data import prepare
from raypixel.data.sets import CIFAR10_CLASSES
from raypixel.data.sources.cifar10 import check_cifar10
from raypixel.data.sources.raw import RawSet
from raypixel.errors import DataError

from .test_parquet import pictures, write


def test_a_source_without_its_files_is_refused(tmp_path):
    (tmp_path / "source").mkdir()
    rule = r"source: must hold parquet files or the folder cifar-10-batches-py, got neither"
    with pytest.raises(DataError, match=rule):
        prepare("cifar10", root=tmp_path / "data", source=tmp_path / "source")


def test_other_images_are_refused(tmp_path):
    arrays = pictures(10, size=(32, 32))
    write(tmp_path / "source" / "train-0.parquet", arrays, labels=np.zeros(10, int))
    rule = r"source: must hold 50,000 train and 10,000 test images, got 10 train"
    with pytest.raises(DataError, match=rule):
        prepare("cifar10", root=tmp_path / "data", source=tmp_path / "source")


@pytest.mark.parametrize(
    ("image_shape", "class_names", "rule"),
    [
        ((1, 32, 32), CIFAR10_CLASSES, r"x: images must be \(3, 32, 32\), got \(1, 32, 32\)"),
        ((3, 32, 32), ("a", "b"), r"x: classes must be those of CIFAR-10, got \('a', 'b'\)"),
    ],
)
def test_another_set_of_the_same_count_is_refused(image_shape, class_names, rule):
    raw = RawSet(image_shape=image_shape, num_levels=256, class_names=class_names, splits={})
    with pytest.raises(DataError, match=rule):
        check_cifar10(raw, where="x")


def test_damaged_batches_of_torchvision_are_refused(tmp_path):
    folder = tmp_path / "source" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    (folder / "data_batch_1").write_bytes(b"not the published file")
    rule = r"cifar-10-batches-py: must be torchvision's CIFAR-10 files, got Dataset not found or"
    with pytest.raises(DataError, match=rule):
        prepare("cifar10", root=tmp_path / "data", source=tmp_path / "source")
