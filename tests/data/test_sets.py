import pytest

from raypixel.data import catalog, prepare


def test_names_are_those_of_the_command_line():
    names = "digits mnist binarized_mnist cifar10 imagenet32 imagenet64 celeba"
    assert [entry.name for entry in catalog()] == names.split()


def test_entry_says_what_prepare_gives(tmp_path):
    entry = catalog()[0]
    manifest = prepare(entry.name, root=tmp_path)
    assert manifest.image_shape == entry.image_shape
    assert manifest.num_levels == entry.num_levels
    assert manifest.class_names == entry.class_names
    assert {name: split.num_images for name, split in manifest.splits.items()} == entry.splits


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "binarized_mnist", "cifar10"])
def test_entry_says_what_prepare_gives_of_the_real_files(name, real_sets):
    _, manifests = real_sets
    entry = next(entry for entry in catalog() if entry.name == name)
    manifest = manifests[name]
    assert manifest.image_shape == entry.image_shape
    assert manifest.num_levels == entry.num_levels
    assert manifest.class_names == entry.class_names
    assert {n: split.num_images for n, split in manifest.splits.items()} == entry.splits
