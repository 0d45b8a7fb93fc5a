"""The manifest of a prepared data set: what its shards hold, their checksums and their origin."""

import hashlib
import re
from pathlib import Path
from typing import Self

from pydantic import ValidationError, model_validator

from raypixel import storage
from raypixel.config import Frozen
from raypixel.data.sets import catalog
from raypixel.errors import DataError, did_you_mean
from raypixel.storage import Location

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
PURPOSE = "data"
"""Of the working copies of sets that are in storage."""
SPLITS = ("train", "val", "test")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class ShardInfo(Frozen):
    """Describe one parquet file."""

    name: str
    """File name inside the data set's folder."""

    num_images: int
    """Rows of the file."""

    num_bytes: int
    """Size of the file."""

    sha256: str
    """Checksum of the file's bytes."""


class SplitInfo(Frozen):
    """Describe one split and the files that hold it, in order."""

    num_images: int
    """Images of the split."""

    files: tuple[ShardInfo, ...]
    """Its shards, in the order of the `index` column."""


class Origin(Frozen):
    """Record what the data set was made from."""

    source: str
    """Absolute path of the source, or the library that gave the images."""

    num_files: int = 0
    """Source files that were read."""

    num_bytes: int = 0
    """Their total size."""

    sha256: str = ""
    """Checksum over the source files' names and contents."""

    stat_sha256: str = ""
    """Checksum over their names, sizes and times: a quick test for "the same files as before"."""

    size: tuple[int, int] | None = None
    """The (height, width) asked for."""

    channels: int | None = None
    """The channels asked for."""


class Manifest(Frozen):
    """Describe a prepared data set."""

    name: str
    """Name of the data set and of its folder."""

    format_version: int
    """Version of this layout."""

    image_shape: tuple[int, int, int]
    """(C, H, W)."""

    num_levels: int
    """Levels per sub-pixel, K; every stored value is in [0, K-1]."""

    num_classes: int
    """Number of classes; 0 when the images have no labels."""

    class_names: tuple[str, ...]
    """One name per class."""

    splits: dict[str, SplitInfo]
    """The splits `train`, `val` and `test`."""

    origin: Origin
    """What the set was made from."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for split_name, split in self.splits.items():
            if split.num_images != sum(shard.num_images for shard in split.files):
                raise ValueError(f"splits.{split_name} must count the images of its files")
        if any(Path(s.name).name != s.name for split in self.splits.values() for s in split.files):
            raise ValueError("splits must name files inside the folder")
        return self

    @property
    def num_dims(self) -> int:
        """Sub-pixels of one image, C * H * W."""
        channels, height, width = self.image_shape
        return channels * height * width

    @property
    def digest(self) -> str:
        """A short checksum over the shards' checksums, split by split."""
        sha256 = hashlib.sha256()
        for split_name in sorted(self.splits):
            for shard in self.splits[split_name].files:
                sha256.update(f"{split_name} {shard.sha256}\n".encode())
        return sha256.hexdigest()[:16]


def check_name(name: str) -> None:
    """Refuse a name that is not a plain folder name.

    Raises:
        DataError: The name is empty, too long, or has a character that is not portable.
    """
    if not _NAME.fullmatch(name):
        rule = "must be 1 to 64 letters, digits, '.', '_' or '-' and start with a letter or digit"
        raise DataError(f"data set name {rule}, got {name!r}")


def load_manifest(root: Location, name: str) -> Manifest:
    """Read the manifest of a prepared data set.

    Raises:
        DataError: The set is not prepared, or its manifest is damaged or of another version.
        StorageError: It is in storage that does not answer or refuses.
    """
    check_name(name)
    folder = storage.local_folder(root, purpose=PURPOSE)
    storage.refresh(folder / name / MANIFEST, root / name / MANIFEST)
    with storage.named(folder, root):
        return _load(folder, name)


def _load(root: Path, name: str) -> Manifest:
    path = root / name / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(_not_prepared(root, name)) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise DataError(f"{path}: must be readable, got {reason}") from None
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "the file"
        detail = " ".join(error.errors()[0]["msg"].split())
        raise DataError(
            f"{path}: must be a data manifest, got a problem in {where} ({detail}); {_remedy(name)}"
        ) from None
    if manifest.format_version != FORMAT_VERSION:
        got = f"got {manifest.format_version}; {_remedy(name)}"
        raise DataError(f"{path}: format_version must be {FORMAT_VERSION}, {got}")
    if manifest.name != name:
        raise DataError(f"{path}: name must be that of its folder, got {manifest.name!r}")
    return manifest


def list_prepared(root: Location) -> list[Manifest]:
    """Return the manifests of every data set prepared under a folder, by name.

    Raises:
        DataError: One of the manifests is damaged.
        StorageError: They are in storage that does not answer or refuses.
    """
    names = [file.removesuffix(f"/{MANIFEST}") for file in storage.find(root, f"*/{MANIFEST}")]
    return [load_manifest(root, name) for name in names if _NAME.fullmatch(name)]


def check_split(root: Location, manifest: Manifest, split_name: str) -> None:
    """Refuse a split that is not known.

    Raises:
        DataError: It is not.
    """
    if split_name not in manifest.splits:
        known = ", ".join(manifest.splits)
        raise DataError(f"{root / manifest.name}: split must be one of {known}, got {split_name!r}")


def check_sizes(root: Location, manifest: Manifest, split_name: str) -> None:
    """Check that each shard of a split is present and has its size.

    Raises:
        DataError: The split is not known, or a shard is missing or has another size.
    """
    check_split(root, manifest, split_name)
    sizes = storage.list_files(root / manifest.name)
    for shard in manifest.splits[split_name].files:
        if sizes.get(shard.name) != shard.num_bytes:
            got = f"{sizes[shard.name]:,}" if shard.name in sizes else "no file"
            problem = f"must have {shard.num_bytes:,} bytes, got {got}"
            raise damaged(root / manifest.name / shard.name, problem, manifest.name)


def damaged(path: Location, problem: str, name: str) -> DataError:
    """Return the error for a shard that is not what the manifest says."""
    return DataError(f"{path}: {problem}; {_remedy(name)}")


def _remedy(name: str) -> str:
    return f"prepare it again: `raypixel data prepare {name} --force`"


def _not_prepared(root: Path, name: str) -> str:
    known = {entry.name: entry for entry in catalog()}
    command = f"raypixel data prepare {name}"
    if str(root) != "data":
        command += f" --root {root}"
    if name not in known or known[name].needs_source:
        command += " --source PATH"
    hint = "" if name in known else did_you_mean(name, known)
    return f"data set {name!r} is not prepared under {root}: run `{command}`{hint}"
