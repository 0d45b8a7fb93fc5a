"""Images in Hugging Face's parquet layout: one column of encoded pictures, and perhaps one of labels.

The image column is found by its type: `struct<bytes, path>` or plain binary. Inside a split the source's order is kept, since
parquet is read front to back; splits that it lacks are carved by a permutation. Class labels are integers with names in the
schema's metadata, plain integers, or texts.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raypixel.config import parse_json
from raypixel.data.sources.decoding import Look, agree, decode_all, look
from raypixel.data.sources.own_images import DivideFn, divide, split_of_file
from raypixel.data.sources.raw import RawBatch, RawSet, RawSplit
from raypixel.errors import DataError

_BATCH_IMAGES = 512
_LABEL_COLUMNS = ("label", "labels", "fine_label")


@dataclass(frozen=True)
class _Rows:
    """One file's rows: its path, how many there are, and the label of each."""

    path: Path
    num_rows: int
    labels: np.ndarray | None


def find_parquet(source: Path) -> list[Path]:
    """Return a parquet file, or every one under a folder, sorted; hidden ones are left out."""
    if source.is_file():
        return [source] if source.suffix == ".parquet" else []
    return sorted(
        path
        for path in source.rglob("*.parquet")
        if not any(part.startswith(".") for part in path.relative_to(source).parts)
        and path.is_file()
    )


def read_parquet(
    source: Path,
    files: list[Path],
    *,
    size: tuple[int, int] | None,
    channels: int | None,
    divide_fn: DivideFn = divide,
) -> RawSet:
    """Plan the reading of parquet files; pictures are decoded batch by batch.

    Args:
        source: The file or folder.
        files: Its parquet files, as `find_parquet` gives them.
        size: (height, width) to crop and scale to; None when all agree.
        channels: 1 or 3; None takes 1 when every picture is gray.
        divide_fn: Chooses the images of each split; see `divide`.

    Raises:
        DataError: A file is damaged, has no or several image columns, labels are not usable, or
            pictures differ in size.
    """
    schemas = [_schema(path) for path in files]
    column, label = image_column(schemas[0], where=str(files[0])), label_column(schemas[0])
    for path, schema in zip(files, schemas, strict=True):
        other = (image_column(schema, where=str(path)), label_column(schema))
        if other != (column, label):
            raise DataError(
                f"{path}: must have the columns {column}, {label} of {files[0]}, got {other}"
            )
    raw_labels = [None if label is None else _column(path, label) for path in files]
    codes, class_names = class_codes(raw_labels, class_names_of(schemas[0], label), files)
    rows = [
        _Rows(path=path, num_rows=_num_rows(path), labels=code)
        for path, code in zip(files, codes, strict=True)
    ]
    groups = _by_split(source, rows)
    counts = {name: sum(part.num_rows for part in group) for name, group in groups.items()}
    divided = divide_fn(counts, where=str(source))
    image_shape = agree(_looks(files, column), size=size, channels=channels)
    splits = {}
    for name, (group, positions) in divided.items():
        chosen = np.zeros(counts[group], bool)
        chosen[positions] = True
        splits[name] = _split(groups[group], column, chosen, image_shape)
    return RawSet(image_shape=image_shape, num_levels=256, class_names=class_names, splits=splits)


def image_column(schema: Any, *, where: str) -> str:
    """Return the name of the column that holds encoded pictures.

    Raises:
        DataError: There is none, or several and none is called `image` or `img`.
    """
    names = [field.name for field in schema if _is_image(field.type)]
    if len(names) == 1:
        return names[0]
    usual = [name for name in ("image", "img") if name in names]
    if usual:
        return usual[0]
    rule = "must have one column of encoded images (binary, or a struct with binary bytes)"
    got = ", ".join(names) or ", ".join(f"{field.name}: {field.type}" for field in schema)
    raise DataError(f"{where}: {rule}, got {got}")


def _is_image(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _is_image(kind.field(index).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _by_split(source: Path, rows: list[_Rows]) -> dict[str, list[_Rows]]:
    base = source if source.is_dir() else source.parent
    named = [split_of_file(part.path.relative_to(base)) for part in rows]
    if "train" not in named:
        return {"train": rows}
    groups: dict[str, list[_Rows]] = {"train": []}
    for part, split_name in zip(rows, named, strict=True):
        if split_name is None:
            rule = "must be named like train-*, val-* or test-*, because another file is train"
            raise DataError(f"{part.path}: {rule}, got {part.path.name!r}")
        groups.setdefault(split_name, []).append(part)
    return groups


def _split(
    rows: list[_Rows], column: str, chosen: np.ndarray, image_shape: tuple[int, int, int]
) -> RawSplit:
    def batches() -> Iterator[RawBatch]:
        start = 0
        for part in rows:
            wanted = chosen[start : start + part.num_rows]
            start += part.num_rows
            labels = None if part.labels is None else part.labels[wanted]
            for first, pictures in _pictures(part.path, column, wanted):
                images = decode_all(pictures, image_shape=image_shape)
                yield images, None if labels is None else labels[first : first + len(images)]

    return RawSplit(num_images=int(chosen.sum()), batches=batches)


def _pictures(
    path: Path, column: str, wanted: np.ndarray
) -> Iterator[tuple[int, list[tuple[str, bytes]]]]:
    """Yield the wanted pictures of a file with their names, and how many came before them."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    row = given = 0
    with _guard(path), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_BATCH_IMAGES, columns=[column]):
            cells = batch.column(0)
            if hasattr(cells.type, "fields"):
                cells = pc.struct_field(cells, "bytes")
            pictures = []
            for position in np.flatnonzero(wanted[row : row + len(cells)]):
                where = f"{path}: row {row + position}"
                content = cells[int(position)].as_py()
                if content is None:
                    raise DataError(f"{where}: {column} must hold the image's bytes, got null")
                pictures.append((where, content))
            if pictures:
                yield given, pictures
            row, given = row + len(cells), given + len(pictures)


def _looks(files: list[Path], column: str) -> Iterator[tuple[str, Look]]:
    for path in files:
        everything = np.ones(_num_rows(path), bool)
        for _, pictures in _pictures(path, column, everything):
            for where, content in pictures:
                yield where, look(content, where=where)


def _schema(path: Path) -> Any:
    import pyarrow.parquet as pq

    with _guard(path):
        return pq.read_schema(path)


def _num_rows(path: Path) -> int:
    import pyarrow.parquet as pq

    with _guard(path):
        return pq.read_metadata(path).num_rows


def _column(path: Path, name: str) -> Any:
    import pyarrow.parquet as pq

    with _guard(path):
        return pq.read_table(path, columns=[name]).column(name)


@contextmanager
def _guard(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        got = " ".join(str(error).split())
        raise DataError(f"{path}: must be a whole parquet file, got {got}") from None


def label_column(schema: Any) -> str | None:
    """Return the name of the label column, or None."""
    return next((name for name in _LABEL_COLUMNS if name in schema.names), None)


def class_names_of(schema: Any, column: str | None) -> tuple[str, ...]:
    """Return the class names that Hugging Face's metadata gives a column; empty when it gives none."""
    text = (schema.metadata or {}).get(b"huggingface")
    if column is None or text is None:
        return ()
    try:
        feature = parse_json(text)["info"]["features"][column]
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
