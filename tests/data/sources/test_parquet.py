import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raypixel.data import prepare
from raypixel.data.sources.parquet import class_codes, class_names_of, label_column
from raypixel.data.splits import read_split
from raypixel.errors import DataError


def encode(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def pictures(count: int, *, seed=0, size=(4, 5)) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return list(rng.integers(0, 256, (count, *size, 3), dtype=np.uint8))


def write(path, arrays, *, labels=None, names=None, column="image", plain=False, **options) -> None:
    cells: list = [encode(array) for array in arrays]
    if not plain:
        cells = [{"bytes": cell, "path": f"{n}.png"} for n, cell in enumerate(cells)]
    table = pa.table({column: cells} | ({} if labels is None else {"label": labels}))
    if names is not None:
        feature = {"names": names, "_type": "ClassLabel"}
        metadata = {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
        table = table.replace_schema_metadata(metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)


def prepared(tmp_path, source, **options):
    return prepare("own", root=tmp_path / "data", source=source, **options)


def read(tmp_path, split_name):
    return read_split(tmp_path / "data", "own", split_name)


@pytest.mark.parametrize("plain", [False, True], ids=["struct", "binary"])
def test_named_files_are_splits_and_keep_their_order(tmp_path, plain):
    arrays = pictures(1500)
    labels = [n % 3 for n in range(1500)]
    names = ["x", "y", "z"]
    options = {"names": names, "plain": plain, "row_group_size": 170}
    source = tmp_path / "source"
    write(source / "train-00000-of-00002.parquet", arrays[:700], labels=labels[:700], **options)
    write(
        source / "train-00001-of-00002.parquet",
        arrays[700:1300],
        labels=labels[700:1300],
        **options,
    )
    write(
        source / "validation-00000-of-00001.parquet",
        arrays[1300:1400],
        labels=labels[1300:1400],
        **options,
    )
    write(source / "test-00000-of-00001.parquet", arrays[1400:], labels=labels[1400:], **options)
    manifest = prepared(tmp_path, source)
    assert manifest.class_names == ("x", "y", "z")
    assert manifest.image_shape == (3, 4, 5)
    bounds = {"train": (0, 1300), "val": (1300, 1400), "test": (1400, 1500)}
    for split_name, (start, stop) in bounds.items():
        part = read(tmp_path, split_name)
        expected = np.stack(arrays[start:stop]).transpose(0, 3, 1, 2)
        assert np.array_equal(part.images.numpy(), expected)
        assert part.class_labels.tolist() == labels[start:stop]


def test_one_file_is_divided_and_every_image_keeps_its_label(tmp_path):
    arrays = pictures(1200)
    truth = {array.tobytes(): n % 7 for n, array in enumerate(arrays)}
    path = tmp_path / "all.parquet"
    write(path, arrays, labels=[n % 7 for n in range(1200)], row_group_size=333)
    manifest = prepared(tmp_path, path)
    assert [split.num_images for split in manifest.splits.values()] == [960, 120, 120]
    assert manifest.class_names == tuple("0123456")
    seen = {}
    for split_name in ("train", "val", "test"):
        part = read(tmp_path, split_name)
        for image, label in zip(part.images.numpy(), part.class_labels, strict=True):
            seen[np.ascontiguousarray(image.transpose(1, 2, 0)).tobytes()] = int(label)
    assert seen == truth


def test_a_file_without_labels_has_no_classes(tmp_path):
    write(tmp_path / "x.parquet", pictures(10))
    assert prepared(tmp_path, tmp_path / "x.parquet", size=(8, 6)).num_classes == 0
    part = read(tmp_path, "train")
    assert part.class_labels is None
    assert part.images.shape == (8, 3, 8, 6)


def test_the_image_column_is_found_by_type_then_by_name(tmp_path):
    table = pa.table({"id": [b"a"] * 4, "img": [encode(a) for a in pictures(4)], "n": [1] * 4})
    pq.write_table(table, tmp_path / "x.parquet")
    assert (
        sum(s.num_images for s in prepared(tmp_path, tmp_path / "x.parquet").splits.values()) == 4
    )


@pytest.mark.parametrize(
    ("columns", "rule"),
    [
        ({"pixels": [[1, 2]] * 4}, r"must have one column of encoded images .*got pixels: list"),
        ({"a": [b""] * 4, "b": [b""] * 4}, r"must have one column of encoded images .*got a, b"),
        (
            {"image": [None, b"x", b"x", b"x"]},
            r"row 0: image must hold the image's bytes, got null",
        ),
        ({"image": [b"x"] * 4}, r"row 0: must be a readable image, got no known image format"),
        ({"label": [0, 1, -1, 0]}, r"labels must be in 0 to 1, got -1"),
        ({"label": [0, 1, None, 0]}, r"every label must be given, got 1 null"),
        ({"label": [0.0, 1.0, 2.0, 3.0]}, r"labels must be whole numbers or texts, got double"),
    ],
)
def test_unusable_columns_are_refused(tmp_path, columns, rule):
    table = {"image": [encode(array) for array in pictures(4)]} if "label" in columns else {}
    pq.write_table(pa.table(table | columns), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=rf"x.parquet: {rule}"):
        prepared(tmp_path, tmp_path / "x.parquet")


def test_pictures_of_different_size_are_refused_by_row(tmp_path):
    write(tmp_path / "x.parquet", [*pictures(5), *pictures(1, size=(6, 6))])
    rule = r"x.parquet: row 5: must be 4x5 like .*x.parquet: row 0, unless --size is given, got 6x6"
    with pytest.raises(DataError, match=rule):
        prepared(tmp_path, tmp_path / "x.parquet")


def test_a_truncated_file_is_named(tmp_path):
    path = tmp_path / "source" / "train-0.parquet"
    write(path, pictures(10))
    whole = path.read_bytes()
    os.truncate(path, len(whole) // 2)
    with pytest.raises(DataError, match=r"train-0.parquet: must be a whole parquet file, got"):
        prepared(tmp_path, path.parent)
    path.write_bytes(whole[:400] + bytes(len(whole) // 2) + whole[400 + len(whole) // 2 :])
    with pytest.raises(DataError, match=r"train-0.parquet: (row \d+: )?must be a"):
        prepared(tmp_path, path.parent)


def test_files_that_differ_are_refused(tmp_path):
    source = tmp_path / "source"
    write(source / "train-0.parquet", pictures(5), labels=[0] * 5)
    write(source / "train-1.parquet", pictures(5))
    rule = r"train-1.parquet: must have the columns image, label of .*train-0.parquet, got"
    with pytest.raises(DataError, match=rule):
        prepared(tmp_path, source)
    write(source / "train-1.parquet", pictures(5), labels=["a"] * 5)
    with pytest.raises(DataError, match=r"train-1.parquet: labels must be of one type in every"):
        prepared(tmp_path, source)


def test_a_file_outside_the_splits_is_refused(tmp_path):
    write(tmp_path / "source" / "train-0.parquet", pictures(5))
    write(tmp_path / "source" / "more.parquet", pictures(5))
    rule = r"more.parquet: must be named like train-\*, val-\* or test-\*, .*got 'more.parquet'"
    with pytest.raises(DataError, match=rule):
        prepared(tmp_path, tmp_path / "source")


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"x.zip: must hold either image files or parquet files"):
        prepared(tmp_path, tmp_path / "x.zip")


FILES = [Path("a.parquet"), Path("b.parquet")]


def codes_of(*columns: list, names: tuple[str, ...] = ()):
    codes, class_names = class_codes([pa.chunked_array([c]) for c in columns], names, FILES)
    return [code.tolist() for code in codes], class_names


def test_numbers_are_kept_and_named_by_themselves():
    assert codes_of([0, 2], [3, 0]) == ([[0, 2], [3, 0]], ("0", "1", "2", "3"))


def test_given_names_are_kept_even_when_unused():
    assert codes_of([0], [1], names=("x", "y", "z")) == ([[0], [1]], ("x", "y", "z"))


def test_texts_are_numbered_in_sorted_order_over_all_files():
    assert codes_of(["b", "c"], ["a", "b"]) == ([[1, 2], [0, 1]], ("a", "b", "c"))


def test_no_label_column_is_no_classes():
    assert class_codes([None, None], (), FILES) == ([None, None], ())


def test_a_number_above_the_names_is_refused():
    with pytest.raises(DataError, match=r"b.parquet: labels must be in 0 to 1, got 2"):
        codes_of([0], [2], names=("x", "y"))


def test_names_come_from_hugging_face_metadata():
    def names(text: str, column: str | None = "label"):
        schema = pa.schema([("label", pa.int64())], metadata={"huggingface": text})
        return class_names_of(schema, column)

    def info(feature) -> str:
        return json.dumps({"info": {"features": {"label": feature}}})

    assert names(info({"names": ["x", "y"], "_type": "ClassLabel"})) == ("x", "y")
    assert names(info({"dtype": "int64", "_type": "Value"})) == ()
    assert names(info(["odd"])) == ()
    assert names("not json") == ()
    assert names("[]") == ()
    assert names(info({"names": ["x"]}), None) == ()


@pytest.mark.parametrize("column", ["label", "labels", "fine_label"])
def test_usual_columns_are_found(column):
    assert label_column(pa.schema([("id", pa.int64()), (column, pa.int64())])) == column
    assert label_column(pa.schema([("id", pa.int64())])) is None
