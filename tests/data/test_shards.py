import os
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raypixel.data import SplitInfo, load_manifest
from raypixel.data.shards import write_split
from raypixel.data.sources.raw import RawSplit, array_split, file_sha256
from raypixel.data.splits import read_split, shard_paths
from raypixel.errors import DataError


def write(folder, raw, *, image_shape=(1, 8, 8), has_labels=True) -> tuple[SplitInfo, list[int]]:
    steps: list[int] = []
    info = write_split(
        folder,
        "train",
        split=raw,
        image_shape=image_shape,
        has_labels=has_labels,
        advance=steps.append,
    )
    return info, steps


def test_a_split_reads_back_as_scikit_learn_gives_it(digits_root):
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.RandomState(0).permutation(1797)
    parts = [read_split(digits_root, "digits", name) for name in ("train", "val", "test")]
    assert [len(part) for part in parts] == [1297, 250, 250]
    images = torch.cat([part.images for part in parts])
    labels = torch.cat([part.class_labels for part in parts])
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == torch.uint8
    assert labels.dtype == torch.int64
    assert np.array_equal(images[:, 0].numpy(), bunch.images[order].astype(np.uint8))
    assert np.array_equal(labels.numpy(), bunch.target[order])


def test_plain_arrow_understands_the_files(digits_root):
    split = read_split(digits_root, "digits", "val")
    (path,) = shard_paths(digits_root, "digits", "val")
    table = pq.read_table(path)
    assert table.schema.field("image").type == pa.fixed_shape_tensor(pa.uint8(), (1, 8, 8))
    assert table.schema.field("label").type == pa.int64()
    assert table.column("index").to_pylist() == list(range(250))
    slow = [np.array(row).reshape(1, 8, 8) for row in table.column("image").to_pylist()]
    assert np.array_equal(np.stack(slow), split.images.numpy())


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 3), (3, 4, 5), (1, 1, 7), (3, 1, 2)])
def test_any_shape_reads_back_without_a_permutation(tmp_path, shape):
    images = np.random.default_rng(0).integers(0, 256, (70, *shape), dtype=np.uint8)
    info, _ = write(tmp_path, array_split(images, None), image_shape=shape, has_labels=False)
    table = pq.read_table(tmp_path / info.files[0].name)
    assert table.schema.names == ["image", "index"]
    assert np.array_equal(table.column("image").combine_chunks().to_numpy_ndarray(), images)


def test_a_large_split_is_eight_shards_in_order(tmp_path):
    images = np.arange(50_000, dtype=np.uint32).view(np.uint8).reshape(50_000, 1, 2, 2)
    labels = np.arange(50_000) % 10
    info, steps = write(tmp_path, array_split(images, labels), image_shape=(1, 2, 2))
    assert [shard.num_images for shard in info.files] == [6250] * 8
    assert sum(steps) == info.num_images == 50_000
    tables = [pq.read_table(tmp_path / shard.name) for shard in info.files]
    table = pa.concat_tables(tables)
    assert table.column("index").to_pylist() == list(range(50_000))
    assert table.column("label").to_pylist() == labels.tolist()
    stacked = np.concatenate([c.to_numpy_ndarray() for c in table.column("image").chunks])
    assert np.array_equal(stacked, images)
    assert all(file_sha256(tmp_path / shard.name) == shard.sha256 for shard in info.files)


@pytest.mark.parametrize("lengths", [[1] * 9, [9], [4, 0, 5], [2, 7]])
def test_batches_of_any_length_give_the_same_file(tmp_path, lengths):
    images = np.arange(9 * 64, dtype=np.uint16).astype(np.uint8).reshape(9, 1, 8, 8)
    bounds = np.cumsum([0, *lengths])
    pairs = list(pairwise(bounds))
    raw = RawSplit(9, lambda: iter([(images[a:b], np.arange(a, b)) for a, b in pairs]))
    info, _ = write(tmp_path, raw)
    table = pq.read_table(tmp_path / info.files[0].name)
    assert np.array_equal(table.column("image").combine_chunks().to_numpy_ndarray(), images)
    assert table.column("label").to_pylist() == list(range(9))


@pytest.mark.parametrize(("given", "text"), [(8, "got fewer"), (10, "got more")])
def test_a_source_that_miscounts_is_refused(tmp_path, given, text):
    images = np.zeros((given, 1, 8, 8), np.uint8)
    raw = RawSplit(9, array_split(images, np.zeros(given, np.int64)).batches)
    with pytest.raises(DataError, match=rf"source must give 9 images, {text}"):
        write(tmp_path, raw)


def test_a_missing_shard_is_refused(own_digits):
    root, _ = own_digits
    (path,) = shard_paths(root, "digits", "test")
    path.unlink()
    text = rf"{path.name}: must have [\d,]+ bytes, got no file; .*`raypixel data prepare digits --force`"
    for read in (read_split, shard_paths):
        with pytest.raises(DataError, match=text):
            read(root, "digits", "test")


def test_a_truncated_shard_is_refused(own_digits):
    root, _ = own_digits
    (path,) = shard_paths(root, "digits", "test")
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(
        DataError, match=rf"{path.name}: must have [\d,]+ bytes, got [\d,]+; prepare"
    ):
        read_split(root, "digits", "test")


def test_an_altered_shard_is_refused_even_after_it_was_read(own_digits):
    root, _ = own_digits
    read_split(root, "digits", "test")
    (path,) = shard_paths(root, "digits", "test")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for read in (read_split, shard_paths):
        with pytest.raises(DataError, match=rf"{path.name}: must have SHA-256 .*, got .*; prepare"):
            read(root, "digits", "test")


def _replace_shard(root, content: bytes | pa.Table) -> None:
    """Put another file in the place of the test shard, with a manifest that knows its checksum."""
    manifest = load_manifest(root, "digits")
    test = manifest.splits["test"]
    path = root / "digits" / test.files[0].name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        pq.write_table(content, path)
    update = {"num_bytes": path.stat().st_size, "sha256": file_sha256(path)}
    shard = test.files[0].model_copy(update=update)
    splits = manifest.splits | {"test": test.model_copy(update={"files": (shard,)})}
    text = manifest.model_copy(update={"splits": splits}).model_dump_json()
    (root / "digits" / "manifest.json").write_text(text)


def test_a_shard_of_another_kind_is_refused(own_digits):
    root, _ = own_digits
    (path,) = shard_paths(root, "digits", "test")
    table = pq.read_table(path)
    _replace_shard(root, b"not parquet at all")
    with pytest.raises(DataError, match=r"must be a parquet file, got"):
        read_split(root, "digits", "test")
    _replace_shard(root, table.drop(["image"]))
    with pytest.raises(DataError, match=r"must hold \['image', 'label'\] with image"):
        read_split(root, "digits", "test")
    _replace_shard(root, table.slice(0, 7))
    with pytest.raises(DataError, match=r"must hold 250 images, got 7"):
        read_split(root, "digits", "test")


def test_an_unknown_split_is_refused(digits_root):
    with pytest.raises(DataError, match=r"split must be one of train, val, test, got 'valid'"):
        read_split(digits_root, "digits", "valid")
