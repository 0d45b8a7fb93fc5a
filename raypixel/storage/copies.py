"""Working copies: folders of this machine that stand for places in storage, each file carried over whole.

A place that is a folder of this machine stands for itself; there is then nothing to carry.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from raypixel.storage.objects import check_bucket, delete, fetch, list_files, upload
from raypixel.storage.places import Location, local_folder

_AT_ONCE = 4


def refresh(copy: Path, place: Location) -> None:
    """Fetch a small file anew; where there is none, there is no copy of it either."""
    if isinstance(place, Path):
        return
    if not fetch(place, copy):
        copy.unlink(missing_ok=True)
        check_bucket(place)


def local_file(place: Location, num_bytes: int, *, purpose: str) -> Path:
    """Return the file of this machine that is a place, or stands for it, fetched if it is not there or not of the right size.

    Nothing is said of a file that storage lacks, or has in another size: whoever reads it checks it.
    """
    path = local_folder(place, purpose=purpose)
    if isinstance(place, Path) or (path.is_file() and path.stat().st_size == num_bytes):
        return path
    path.unlink(missing_ok=True)
    fetch(place, path)
    return path


def local_files(sizes: Mapping[Location, int], *, purpose: str) -> list[Path]:
    """Return the files of this machine for several places, given with their sizes; see `local_file`."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda p: local_file(p, sizes[p], purpose=purpose), sizes))


def put_copy(folder: Path, place: Location, names: Mapping[str, int], *, last: str) -> None:
    """Put files of a working copy in the place of those that were there, `last` at the end.

    A `last` that is there goes first: in between there is none, rather than one whose files are not its own.
    """
    if isinstance(place, Path):
        return
    old = list_files(place)
    if last in old:
        delete([place / last])
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(lambda name: upload(folder / name, place / name), names))
    upload(folder / last, place / last)
    delete(place / name for name in sorted(old.keys() - names.keys() - {last}))
