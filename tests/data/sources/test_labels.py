import json
from pathlib import Path

import pyarrow as pa
import pytest

from raypixel.data.sources.labels import class_codes, class_names_of, label_column
from raypixel.errors import DataError

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
