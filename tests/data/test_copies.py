"""Prepared data sets in storage: the same images as in a folder, checked, fetched once."""

import pytest

from raypixel import storage
from raypixel.data import DataConfig, list_prepared, load_manifest, prepare
from raypixel.data.splits import read_split
from raypixel.errors import DataError, StorageError
from raypixel.storage import Remote


@pytest.fixture
def remote_root(bucket, digits_root, digits) -> Remote:
    """Put the prepared digits into a bucket."""
    root = bucket / "data"
    for path in (digits_root / "digits").iterdir():
        storage.upload(path, root / "digits" / path.name)
    return root


def shard_of(digits, split: str) -> str:
    return digits.splits[split].files[0].name


def test_set_prepared_in_storage_is_the_one_prepared_in_a_folder(bucket, digits, digits_root):
    root = bucket / "data"
    with pytest.raises(DataError, match=f"prepare digits --root {root}`"):
        load_manifest(root, "digits")
    made = prepare("digits", root=root)
    assert made.digest == digits.digest
    assert made == load_manifest(root, "digits") == prepare("digits", root=root)
    assert list_prepared(root) == [made]
    assert set(storage.list_files(root / "digits")) == {
        path.name for path in (digits_root / "digits").iterdir()
    }
    ours, theirs = read_split(root, "digits", "val"), read_split(digits_root, "digits", "val")
    assert (ours.images == theirs.images).all()


def test_shards_are_fetched_once_and_again_when_the_copy_is_damaged(remote_root, digits):
    read_split(remote_root, "digits", "test")
    name = shard_of(digits, "test")
    copy = storage.local_folder(remote_root, purpose="data") / "digits" / name
    assert [path.name for path in copy.parent.glob("*.parquet")] == [name]
    storage.delete([remote_root / "digits" / name])
    read_split(remote_root, "digits", "test")
    storage.upload(copy, remote_root / "digits" / name)
    content = bytearray(copy.read_bytes())
    content[100] ^= 1
    copy.write_bytes(content)
    assert len(read_split(remote_root, "digits", "test")) == 250


def test_truncated_altered_and_missing_shards_are_told_by_their_address(remote_root, digits):
    place = remote_root / "digits" / shard_of(digits, "test")
    content = storage.read_bytes(place)
    rest = r"; prepare it again: `raypixel data prepare digits --force`$"
    altered = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    for damage, problem in (
        (content[:-10], rf"must have {len(content):,} bytes, got {len(content) - 10:,}"),
        (altered, "must have SHA-256 "),
    ):
        storage.write_bytes(place, damage)
        with pytest.raises(DataError, match=rf"^{place}: {problem}.*{rest}"):
            read_split(remote_root, "digits", "test")
    storage.delete([place])
    with pytest.raises(
        DataError, match=rf"^{place}: must have {len(content):,} bytes, got no file"
    ):
        read_split(remote_root, "digits", "test")


def test_set_that_an_upload_left_without_manifest_is_made_again(remote_root, digits):
    storage.delete([remote_root / "digits" / "manifest.json"])
    assert list_prepared(remote_root) == []
    assert prepare("digits", root=remote_root).digest == digits.digest
    storage.delete([remote_root / "digits" / shard_of(digits, "train")])
    assert prepare("digits", root=remote_root).digest == digits.digest
    assert len(read_split(remote_root, "digits", "train")) == 1297


def test_what_is_no_prepared_set_is_not_replaced(bucket):
    storage.write_bytes(bucket / "data" / "digits" / "holiday.png", b"x")
    with pytest.raises(DataError, match=r"^s3://.*/data/digits: must be absent or a prepared"):
        prepare("digits", root=bucket / "data", force=True)


def test_missing_bucket_is_not_taken_for_a_set_that_is_not_prepared(bucket):
    for act in (load_manifest, lambda root, name: prepare(name, root=root)):
        with pytest.raises(StorageError, match="bucket 'no-such-bucket' must exist"):
            act(Remote("s3://no-such-bucket/data"), "digits")


def test_root_of_a_config_may_be_in_storage():
    config = DataConfig(name="digits", root="s3://bucket/data")
    assert config.root == Remote("s3://bucket/data")
    plain = config.model_dump(mode="json")
    assert plain["root"] == "s3://bucket/data"
    assert DataConfig(**plain) == config
    for bad in ("gs://bucket/data", 3):
        with pytest.raises(ValueError, match=r"must be a path or s3://BUCKET/NAME, got"):
            DataConfig(name="digits", root=bad)
