"""Objects of storage as a whole: read, put, copied from and to files, listed, deleted."""

import os
import shutil
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from raypixel.errors import StorageError
from raypixel.storage.connection import connect, problem
from raypixel.storage.places import Location, Remote, absolute, inside, location

_CHUNK = 8 << 20
_ATTEMPTS = 10


def read_bytes(remote: Location) -> bytes | None:
    """Return the content of an object or file, None if there is none.

    Raises:
        StorageError: Storage does not answer or refuses.
    """
    if isinstance(remote, Path):
        return remote.read_bytes() if remote.is_file() else None
    content = b""
    for attempt in range(_ATTEMPTS):
        try:
            with connect(remote.bucket).open_input_stream(remote.key) as stream:
                content = bytes(stream.read())
            if _is_whole(remote, len(content)):
                break
        except FileNotFoundError:
            return None
        except OSError as error:  # also where another object came while this one was read
            is_last = attempt + 1 == _ATTEMPTS
            if is_last or "Failed to flush response stream" not in str(error):
                raise _problem(remote, error) from None
    return content


def _is_whole(remote: Remote, num_bytes: int) -> bool:
    """Return whether that is all: pyarrow asks for the size first, and a longer object may have come before it reads."""
    info = connect(remote.bucket).get_file_info(remote.key)
    return not info.is_file or bool(info.size == num_bytes)


def write_bytes(remote: Location, content: bytes) -> None:
    """Write an object or file; of an object readers see the old or the new one, nothing between.

    Raises:
        StorageError: Storage does not answer or refuses.
    """
    if isinstance(remote, Path):
        remote.write_bytes(content)
        return
    try:
        with connect(remote.bucket).open_output_stream(remote.key) as stream:
            stream.write(content)
    except OSError as error:
        raise _problem(remote, error) from None


def fetch(remote: Remote, path: Path) -> bool:
    """Copy an object into a file, which appears complete or not at all; return False if there is no object.

    Raises:
        StorageError: Storage does not answer or refuses.
        OSError: The file cannot be written.
    """
    try:
        stream = connect(remote.bucket).open_input_stream(remote.key)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _problem(remote, error) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with stream, temporary.open("wb") as file:
            while chunk := _read_chunk(remote, stream):
                file.write(chunk)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def upload(path: Path, remote: Remote) -> None:
    """Copy a file into an object, which appears complete or not at all.

    Raises:
        StorageError: Storage does not answer or refuses.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        try:
            with connect(remote.bucket).open_output_stream(remote.key) as stream:
                while chunk := file.read(_CHUNK):
                    stream.write(chunk)
        except OSError as error:
            raise _problem(remote, error) from None


def check_bucket(remote: Remote) -> None:
    """Say so if it is the whole bucket that is missing.

    Raises:
        StorageError: There is no such bucket.
    """
    from pyarrow import fs

    try:
        info = connect(remote.bucket).get_file_info(remote.bucket)
    except OSError as error:
        raise _problem(remote, error) from None
    if info.type == fs.FileType.NotFound:
        raise StorageError(f"{remote}: bucket {remote.bucket!r} must exist, there is none")


def list_files(remote: Location) -> dict[str, int]:
    """Return the size of every object or file below a place, by its name from there.

    Raises:
        StorageError: The bucket is not there; storage does not answer or refuses; a name leads out of the place.
    """
    from pyarrow import fs

    if isinstance(remote, Path):
        files = [path for path in remote.rglob("*") if path.is_file()]
        return {path.relative_to(remote).as_posix(): path.stat().st_size for path in files}
    selector = fs.FileSelector(remote.key, recursive=True, allow_not_found=True)
    try:
        found = connect(remote.bucket).get_file_info(selector)
    except OSError as error:
        raise _problem(remote, error) from None
    if not found:
        check_bucket(remote)
    start = len(remote.key) + 1
    sizes = {info.path[start:]: info.size for info in found if info.is_file}
    for name in sizes:
        inside(remote, name)
    return sizes


def find(place: Location, pattern: str) -> list[str]:
    """Return the names, from a place on and sorted, of the files that match `*/NAME` or another pattern of so many parts."""
    if isinstance(place, Path):
        return sorted(path.relative_to(place).as_posix() for path in place.glob(pattern))
    depth = pattern.count("/")
    files = [name for name in list_files(place) if name.count("/") == depth]
    return sorted(name for name in files if PurePosixPath(name).match(pattern))


def names_in(place: Location) -> set[str] | None:
    """Return the names of what is in a folder, None if there is nothing; a file is in itself, as "."."""
    if not isinstance(place, Path):
        return {name.partition("/")[0] for name in list_files(place)} or None
    if place.is_dir():
        return {path.name for path in place.iterdir()}
    return {"."} if place.exists() else None


def exists(place: Location) -> bool:
    """Return whether there is a file or folder, or any object below a place."""
    return place.exists() if isinstance(place, Path) else bool(list_files(place))


def existing(text: str, folder: Location) -> Location:
    """Return the place that a text names: a path or address, or else what has this name in a folder."""
    place = location(text)
    return place if isinstance(place, Remote) or place.exists() else folder / text


def modified(remote: Remote) -> datetime | None:
    """Return when an object was put, None if there is none."""
    try:
        info = connect(remote.bucket).get_file_info(remote.key)
    except OSError as error:
        raise _problem(remote, error) from None
    return info.mtime if info.is_file else None


def delete(remotes: Iterable[Location]) -> None:
    """Delete objects or files; one that is gone is no error."""
    for remote in remotes:
        if isinstance(remote, Path):
            remote.unlink(missing_ok=True)
            continue
        try:
            connect(remote.bucket).delete_file(remote.key)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _problem(remote, error) from None


def delete_folder(remote: Remote) -> None:
    """Delete all objects below a place, which is no bucket."""
    assert len(remote.parts) > 2
    try:
        connect(remote.bucket).delete_dir(remote.key)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _problem(remote, error) from None


def remove(place: Location) -> None:
    """Delete a folder with what is in it, if it is there."""
    if isinstance(place, Path):
        shutil.rmtree(place, ignore_errors=True)
    else:
        delete_folder(place)


def ray_storage(place: Location) -> dict[str, Any]:
    """Return how Ray's run configurations name a place, as keyword arguments."""
    if isinstance(place, Path):
        return {"storage_path": str(place)}
    return {"storage_path": place.key, "storage_filesystem": connect(place.bucket)}


def arrow_files(places: Sequence[Location]) -> tuple[list[str], Any]:
    """Return how pyarrow's readers, and Ray Data, name files of one bucket or of this machine: paths and their file system."""
    paths = [str(absolute(p)) if isinstance(p, Path) else p.key for p in places]
    buckets = {p.bucket for p in places if not isinstance(p, Path)}
    assert len(buckets) < 2
    return paths, connect(buckets.pop()) if buckets else None


def _read_chunk(remote: Remote, stream: Any) -> bytes:
    try:
        return bytes(stream.read(_CHUNK))
    except OSError as error:
        raise _problem(remote, error) from None


def _problem(remote: Remote, error: OSError) -> StorageError:
    return problem(str(remote), remote.bucket, error)
