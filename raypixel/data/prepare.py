"""Make a prepared data set: read a source, write shards and manifest into a temporary folder, rename it.

A folder that bears the data set's name is therefore always whole. Whoever prepares holds a lock on the root folder, which the
operating system drops when the process ends, so temporary folders seen under the lock are left from an interrupted run.
"""

import contextlib
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from raypixel import storage
from raypixel.data.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    PURPOSE,
    SPLITS,
    Manifest,
    Origin,
    SplitInfo,
    check_name,
    load_manifest,
)
from raypixel.data.options import DataConfig
from raypixel.data.sets import catalog, catalog_entry
from raypixel.data.shards import sync, write_split
from raypixel.data.sources import SourceReader, reader_of
from raypixel.data.sources.raw import RawSet, content_sha256, describe, stat_sha256
from raypixel.errors import DataError, did_you_mean
from raypixel.storage import Location

_TEMPORARY = ".raypixel-"
_VERIFIED_CONTENT = ("digits", "mnist")  # the content is what the name says, whatever the path


def ensure_prepared(config: DataConfig, *, progress: Callable[[int, int], None] | None) -> Manifest:
    """Return the manifest of the data set, preparing it first where it is embedded or can be downloaded.

    Raises:
        DataError: It is not prepared and cannot be; the text names the command that does it.
    """
    try:
        return load_manifest(config.root, config.name)
    except DataError:
        reachable = {entry.name for entry in catalog() if not entry.needs_source}
        if config.name not in reachable or storage.exists(config.root / config.name):
            raise
        return prepare(config.name, root=config.root, progress=progress)


def prepare(
    name: str,
    *,
    root: Location,
    source: Path | None = None,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Prepare a data set under a root folder, or return at once when that has been done.

    A prepared set whose files are missing or truncated is made again.

    Args:
        name: A name of the catalog, or a new one for the user's own images.
        root: Folder of the prepared data sets, made when absent, or a place in storage.
        source: Folder or file to read; None downloads, where that is possible.
        size: (height, width) of the user's images; None when they all agree.
        channels: 1 or 3, of the user's images; None takes 1 when every image is gray.
        force: Replace a set that was prepared from another source or with other options.
        progress: Called with the images done and the images in all.

    Returns:
        The manifest of the prepared set.

    Raises:
        DataError: The source is missing or damaged, the options do not fit, the name is taken by
            something else, or the disk is full.
        StorageError: The root is in storage that does not answer or refuses.
    """
    _check_request(name, source=source, size=size, channels=channels)
    reader = reader_of(name, size=size, channels=channels)
    copy = storage.local_folder(root, purpose=PURPOSE)
    origin = Origin(
        source=str(Path(source).resolve()) if source else "", size=size, channels=channels
    )
    try:
        copy.mkdir(parents=True, exist_ok=True)
        with _locked(copy), storage.named(copy, root):
            existing = None if force else _existing(root, name)
            if existing is not None:
                _check_same(existing, origin, reader, where=root / name)
                return existing
            _check_replaceable(root / name, is_copied=copy != root)
            if origin.source == "" and reader.fetch is None and name != "digits":
                raise DataError(_needs_source(name))
            manifest = _build(copy, name, origin, reader=reader, progress=progress)
            storage.put_copy(copy / name, root / name, _shard_sizes(manifest), last=MANIFEST)
            return manifest
    except OSError as error:
        rule = f"must be writable and have space for data set {name!r}"
        raise DataError(f"{copy}: {rule}, got {error.strerror or error}") from None


def parse_size(text: str) -> tuple[int, int]:
    """Read `HxW`, or one number for a square, as (height, width).

    Raises:
        DataError: The text is neither, or a number is 0.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,3})(?:[xX]([1-9][0-9]{0,3}))?", text.strip())
    if match is None:
        raise DataError(f"--size must be HEIGHTxWIDTH, such as 32x32, got {text!r}")
    return int(match[1]), int(match[2] or match[1])


def _check_request(
    name: str, *, source: Path | None, size: tuple[int, int] | None, channels: int | None
) -> None:
    check_name(name)
    entry = catalog_entry(name)
    options = {"--size": size, "--channels": channels}
    if entry is not None:
        for option, value in options.items():
            if value is not None and not (entry.takes_size and option == "--size"):
                rule = f"must be used with your own images only, not with {name!r}"
                raise DataError(f"{option} {rule}, got {value}")
        if entry.source is None and source is not None:
            raise DataError(f"--source must be absent for {name!r}, got {str(source)!r}")
    if channels not in (None, 1, 3):
        raise DataError(f"--channels must be 1 or 3, got {channels}")
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise DataError(f"--size must be a height and a width of at least 1, got {size}")
    if source is not None and not Path(source).exists():
        raise DataError(f"--source must be a folder or file that exists, got {str(source)!r}")


def _existing(root: Location, name: str) -> Manifest | None:
    """Return the manifest of a whole prepared set; None when there is none or it lacks something."""
    try:
        manifest = load_manifest(root, name)
    except DataError:
        return None
    is_whole = _shard_sizes(manifest).items() <= storage.list_files(root / name).items()
    return manifest if is_whole else None


def _shard_sizes(manifest: Manifest) -> dict[str, int]:
    shards = [shard for split in manifest.splits.values() for shard in split.files]
    return {shard.name: shard.num_bytes for shard in shards}


def _check_same(
    manifest: Manifest, asked: Origin, reader: SourceReader, *, where: Location
) -> None:
    made = manifest.origin
    remedy = "choose another name or pass --force"
    channels, *size = manifest.image_shape
    if asked.size not in (made.size, tuple(size)) and (asked.size or asked.source):
        got = "none" if asked.size is None else f"{asked.size[0]}x{asked.size[1]}"
        rule = f"is prepared with {size[0]}x{size[1]} images: --size must agree"
        raise DataError(f"{where}: {rule}, got {got}; {remedy}")
    if asked.channels not in (made.channels, channels) and (asked.channels or asked.source):
        got = "none" if asked.channels is None else str(asked.channels)
        rule = f"is prepared with {channels} channels: --channels must agree"
        raise DataError(f"{where}: {rule}, got {got}; {remedy}")
    if asked.source == "" or manifest.name in _VERIFIED_CONTENT:
        return
    source = Path(asked.source)
    files = reader.find(source)
    if asked.source == made.source and stat_sha256(source, files) == made.stat_sha256:
        return
    if content_sha256(source, files) != made.sha256:
        rule = f"is prepared from {made.source}: --source must have the same content"
        raise DataError(f"{where}: {rule}, got {asked.source}; {remedy}")


def _check_replaceable(folder: Location, *, is_copied: bool) -> None:
    """Refuse to replace what `prepare` has not made, such as a folder of the user's images."""
    names = storage.names_in(folder)
    if names is None or (is_copied and all(_is_shard(name) for name in names)):
        return  # nothing, or an upload cut short
    foreign = sorted(name for name in names if name != MANIFEST and not _is_shard(name))
    if foreign or MANIFEST not in names:
        got = (foreign[0] if foreign else f"no {MANIFEST}") if names != {"."} else "a file"
        raise DataError(f"{folder}: must be absent or a prepared data set, got {got}")


def _is_shard(name: str) -> bool:
    return re.fullmatch(rf"({'|'.join(SPLITS)})-\d+-of-\d+\.parquet", name) is not None


def _build(
    root: Path,
    name: str,
    origin: Origin,
    *,
    reader: SourceReader,
    progress: Callable[[int, int], None] | None,
) -> Manifest:
    _remove_leftovers(root)
    folder = root / f"{_TEMPORARY}{name}-{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        source = Path(origin.source)
        if origin.source == "" and reader.fetch is not None:
            source = _fetched(name, folder / "download", reader.fetch)
        files = reader.find(source)
        raw = reader.read(source, files)
        splits = _written(folder, raw, progress)
        manifest = Manifest(
            name=name,
            format_version=FORMAT_VERSION,
            image_shape=raw.image_shape,
            num_levels=raw.num_levels,
            num_classes=len(raw.class_names),
            class_names=raw.class_names,
            splits=splits,
            origin=describe(origin, source, files),
        )
        shutil.rmtree(folder / "download", ignore_errors=True)
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        sync(folder / MANIFEST)
        sync(folder)
        _replace(folder, root / name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return manifest


def _written(
    folder: Path, raw: RawSet, progress: Callable[[int, int], None] | None
) -> dict[str, SplitInfo]:
    total = sum(split.num_images for split in raw.splits.values())
    done = 0

    def advance(num_images: int) -> None:
        nonlocal done
        done += num_images
        if progress is not None:
            progress(done, total)

    return {
        split_name: write_split(
            folder,
            split_name,
            split=raw.splits[split_name],
            image_shape=raw.image_shape,
            has_labels=bool(raw.class_names),
            advance=advance,
        )
        for split_name in SPLITS
    }


def _fetched(name: str, folder: Path, fetch: Callable[[Path], None]) -> Path:
    folder.mkdir()
    try:
        fetch(folder)
    except (OSError, RuntimeError) as error:  # no network, no mirror, or a broken download
        got = " ".join(str(error).split())
        raise DataError(
            f"data set {name!r} must be downloaded or given with --source PATH, got {got}"
        ) from None
    return folder


def _needs_source(name: str) -> str:
    known = [entry.name for entry in catalog()]
    if name in known:
        return f"data set {name!r} must be given with --source PATH, got no source"
    rule = f"must be one of {', '.join(known)}, or your own images given with --source PATH"
    return f"data set name {rule}, got {name!r}{did_you_mean(name, known)}"


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    descriptor = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_leftovers(root: Path) -> None:
    for path in root.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)


def _replace(folder: Path, target: Path) -> None:
    """Put a complete folder in the place of a prepared set, or where nothing was."""
    if target.exists():
        target.rename(folder.with_name(f"{folder.name}-old"))
    folder.rename(target)
    sync(target.parent)
    shutil.rmtree(folder.with_name(f"{folder.name}-old"), ignore_errors=True)
