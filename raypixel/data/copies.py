"""Prepared data sets under `s3://`, each with a working copy on this machine.

The manifest is put last and fetched each time it is asked for, so a set that is prepared anew is noticed. Shards are fetched
when a split is read, and only those that the working copy lacks; whoever reads them checks them against the manifest as ever.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from raypixel import storage
from raypixel.storage import Location, Remote

_AT_ONCE = 4


class Shard(Protocol):
    """What the manifest says of a file."""

    @property
    def name(self) -> str:
        """File name."""
        ...

    @property
    def num_bytes(self) -> int:
        """Size."""
        ...


def local_root(root: Location) -> Path:
    """Return the folder of this machine that holds, or gets, the sets of a root."""
    if isinstance(root, Remote):
        return storage.working_copy(root, purpose="data")
    return Path(root)


def fetch_file(root: Remote, name: str, file: str) -> None:
    """Fetch a small file of a set anew; where there is none, the working copy has none either."""
    path = local_root(root) / name / file
    if not storage.fetch(root / name / file, path):
        path.unlink(missing_ok=True)
        storage.check_bucket(root)


def fetch_shards(root: Remote, name: str, shards: Sequence[Shard]) -> None:
    """Fetch the shards that the working copy has not, or not of the right size."""
    folder = local_root(root) / name

    def fetch(shard: Shard) -> None:
        path = folder / shard.name
        if not path.is_file() or path.stat().st_size != shard.num_bytes:
            path.unlink(missing_ok=True)
            storage.fetch(root / name / shard.name, path)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(fetch, shards))


def put_set(root: Remote, name: str, manifest: str, shards: Sequence[Shard]) -> None:
    """Put a set from its working copy: its shards, its manifest last.

    A manifest that is there goes first: in between there is no set, rather than one whose files are not its own.
    """
    folder = local_root(root) / name
    old = storage.list_files(root / name)
    if manifest in old:
        storage.delete([root / name / manifest])
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(lambda s: storage.upload(folder / s.name, root / name / s.name), shards))
    storage.upload(folder / manifest, root / name / manifest)
    gone = old.keys() - {shard.name for shard in shards} - {manifest}
    storage.delete(root / name / file for file in sorted(gone))
