"""Class labels of Hugging Face parquet: integers with names in the schema's metadata, plain integers, or texts."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from raypixel.errors import DataError

_COLUMNS = ("label", "labels", "fine_label")


def label_column(schema: Any) -> str | None:
    """Return the name of the label column, or None."""
    return next((name for name in _COLUMNS if name in schema.names), None)


def class_names_of(schema: Any, column: str | None) -> tuple[str, ...]:
    """Return the class names that Hugging Face's metadata gives a column; empty when it gives none."""
    text = (schema.metadata or {}).get(b"huggingface")
    if column is None or text is None:
        return ()
    try:
        feature = json.loads(text)["info"]["features"][column]
    except (ValueError, KeyError, TypeError):
        return ()  # foreign metadata: the labels themselves decide
    names = feature.get("names") if isinstance(feature, dict) else None
    return tuple(str(name) for name in names) if isinstance(names, list) else ()


def class_codes(
    columns: list[Any], class_names: tuple[str, ...], files: list[Path]
) -> tuple[list[np.ndarray | None], tuple[str, ...]]:
    """Turn label columns into class numbers.

    Args:
        columns: The Arrow column of each file, or None for files without labels.
        class_names: Names by number, if the source gives them.
        files: Where the columns are from, for errors.

    Returns:
        The numbers of each file, (N,), int64, or None, and the class names; texts are numbered in sorted order.

    Raises:
        DataError: A label is null, negative, above the names, or neither a number nor a text.
    """
    import pyarrow as pa

    if columns[0] is None:
        return [None for _ in columns], ()
    for column, path in zip(columns, files, strict=True):
        kind = column.type
        if column.null_count:
            raise DataError(f"{path}: every label must be given, got {column.null_count} null")
        if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or _is_wide_text(kind)):
            raise DataError(f"{path}: labels must be whole numbers or texts, got {kind}")
        if pa.types.is_integer(kind) != pa.types.is_integer(columns[0].type):
            raise DataError(f"{path}: labels must be of one type in every file, got {kind}")
    if not pa.types.is_integer(columns[0].type):
        return _text_codes([column.to_pylist() for column in columns])
    codes = [column.to_numpy().astype(np.int64) for column in columns]
    top = max((int(code.max()) for code in codes if len(code)), default=-1)
    names = class_names or tuple(str(number) for number in range(top + 1))
    for code, path in zip(codes, files, strict=True):
        wrong = code[(code < 0) | (code >= len(names))]
        if len(wrong):
            raise DataError(f"{path}: labels must be in 0 to {len(names) - 1}, got {wrong[0]}")
    return list(codes), names


def _text_codes(columns: list[list[str]]) -> tuple[list[np.ndarray | None], tuple[str, ...]]:
    names = tuple(sorted({text for column in columns for text in column}))
    code = {name: number for number, name in enumerate(names)}
    return [np.array([code[text] for text in column], np.int64) for column in columns], names


def _is_wide_text(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
