import json

import pytest

from raypixel.data import Manifest, list_prepared, load_manifest, prepare
from raypixel.errors import DataError


def rewrite(root, **fields):
    path = root / "digits" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_json_round_trip_gives_an_equal_manifest(digits_root):
    manifest = load_manifest(digits_root, "digits")
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest
    assert manifest.num_dims == 64


def test_digest_names_the_content_of_the_shards(digits_root, tmp_path):
    manifest = load_manifest(digits_root, "digits")
    assert prepare("digits", root=tmp_path).digest == manifest.digest
    assert len(manifest.digest) == 16
    train = manifest.splits["train"]
    shard = train.files[0].model_copy(update={"sha256": "0" * 64})
    splits = manifest.splits | {"train": train.model_copy(update={"files": (shard,)})}
    assert manifest.model_copy(update={"splits": splits}).digest != manifest.digest


def test_prepared_sets_are_listed_by_name(digits_root, tmp_path):
    assert list_prepared(tmp_path / "absent") == []
    (tmp_path / "notes").mkdir()
    assert list_prepared(tmp_path) == []
    assert list_prepared(digits_root) == [load_manifest(digits_root, "digits")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "mnist",
            r"'mnist' is not prepared under .*: run `raypixel data prepare mnist --root \S+`$",
        ),
        (
            "binarized_mnist",
            r"run `raypixel data prepare binarized_mnist --root \S+ --source PATH`$",
        ),
        ("mnits", r"run `.* mnits .*--source PATH`, did you mean 'mnist'\?$"),
        ("../mnist", r"data set name must be 1 to 64 letters.*got '../mnist'"),
        ("", r"data set name must be 1 to 64 letters.*got ''"),
    ],
)
def test_a_set_that_is_not_there_is_named_with_its_command(tmp_path, name, text):
    with pytest.raises(DataError, match=text):
        load_manifest(tmp_path, name)


def test_the_usual_root_is_left_out_of_the_command(tmp_path, monkeypatch):
    from pathlib import Path

    monkeypatch.chdir(tmp_path)
    text = "data set 'mnist' is not prepared under data: run `raypixel data prepare mnist`"
    with pytest.raises(DataError) as caught:
        load_manifest(Path("data"), "mnist")
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"format_version": 2}, r"format_version must be 1, got 2; prepare it again"),
        ({"name": "other"}, r"name must be that of its folder, got 'other'"),
        ({"num_levels": "many"}, r"must be a data manifest, got a problem in num_levels"),
        ({"mood": 1}, r"must be a data manifest, got a problem in mood"),
        (
            {"splits": {"train": {"num_images": 3, "files": []}}},
            r"splits.train must count the images of its files",
        ),
        (
            {
                "splits": {
                    "train": {
                        "num_images": 1,
                        "files": [
                            {"name": "../x", "num_images": 1, "num_bytes": 1, "sha256": "0"},
                        ],
                    }
                }
            },
            r"splits must name files inside the folder",
        ),
    ],
)
def test_a_wrong_manifest_is_refused(own_digits, fields, text):
    root, _ = own_digits
    rewrite(root, **fields)
    with pytest.raises(DataError, match=text):
        load_manifest(root, "digits")


def test_a_truncated_or_unreadable_manifest_is_refused(own_digits):
    root, _ = own_digits
    path = root / "digits" / "manifest.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(
        DataError, match=r"manifest.json: must be a data manifest, got a problem in"
    ):
        load_manifest(root, "digits")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"must be readable, got not UTF-8 text"):
        load_manifest(root, "digits")
