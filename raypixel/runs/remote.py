"""A run under `s3://`: what storage has of it, and how a working copy of this machine gets it.

    experiment.yaml, run.json, metrics.jsonl, samples.png     as in a run's folder
    checkpoints/step-00000940.1f3a9c2e/                       a checkpoint; the suffix is of its checkpoint.json
    checkpoints/index.json                                    which of them are `best` and `last`; put last

A checkpoint's objects are never replaced, and are deleted only after the index names others. So whoever reads the index finds
what it names whole, and a writer that is killed anywhere leaves the index of before. Working copies are of three purposes: that
of `READERS` has what storage has, that of the `WRITER` may be ahead of it, that of a `FOLLOWER`, a worker that does not write,
must not be.
"""

import hashlib
import json
import re
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from raypixel import storage
from raypixel.checkpoint import INDEX as CHECKPOINT_INDEX
from raypixel.checkpoint import CheckpointStore, read_checkpoint
from raypixel.config import parse_json
from raypixel.errors import CheckpointError
from raypixel.runs.events import FILE_NAME as EVENTS
from raypixel.runs.events import fetch_events
from raypixel.storage import Location, Remote

READERS, WRITER, FOLLOWER = "runs", "work", "follow"
FILES = ("experiment.yaml", "run.json", "metrics.jsonl", "samples.png")
FORMAT_VERSION = 1
_INDEX = "index.json"
_NAME, _FOLDER = re.compile(r"step-\d+"), re.compile(r"step-\d+\.[0-9a-f]{8}")
_ATTEMPTS = 4
_SECONDS_KEPT = 3600.0


@dataclass(frozen=True)
class Index:
    """Which checkpoints storage has.

    Attributes:
        folders: The name of each one's folder in storage, by its name in a run's folder.
        best: The one of the lowest validation likelihood.
        last: The newest.
    """

    folders: dict[str, str]
    best: str
    last: str


def read_index(place: Remote) -> Index | None:
    """Read the index of a run, None if it has no checkpoint yet.

    Raises:
        CheckpointError: It is damaged.
    """
    content = storage.read_bytes(place / "checkpoints" / _INDEX)
    if content is None:
        return None
    try:
        found = parse_json(content)
        index = Index(dict(found["folders"]), found["best"], found["last"])
        is_whole = index.best in index.folders and index.last in index.folders
        is_ours = (
            is_whole
            and found["format_version"] == FORMAT_VERSION
            and all(
                _NAME.fullmatch(name)
                and folder.startswith(f"{name}.")
                and _FOLDER.fullmatch(folder)
                for name, folder in index.folders.items()
            )
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        is_ours = False
    if not is_ours:
        raise CheckpointError(f"{place}: is damaged, checkpoints/{_INDEX} cannot be read")
    return index


def write_index(place: Remote, index: Index) -> None:
    """Put the index of a run."""
    contents = {
        "format_version": FORMAT_VERSION,
        "folders": index.folders,
        "best": index.best,
        "last": index.last,
    }
    storage.write_bytes(place / "checkpoints" / _INDEX, json.dumps(contents, indent=1).encode())


def remote_name(checkpoint: Path) -> str:
    """Return the name of a checkpoint's folder in storage: other content, other name."""
    return f"{checkpoint.name}.{_digest(checkpoint)}"


def _digest(checkpoint: Path) -> str:
    content = (checkpoint / CHECKPOINT_INDEX).read_bytes()
    return hashlib.sha256(content).hexdigest()[:8]


def fetch_run(
    place: Remote,
    copy: Path,
    *,
    is_writers: bool = False,
    warn: Callable[[str], None] | None = None,
) -> None:
    """Bring a working copy up to date, without the events.

    Args:
        place: The run.
        copy: The working copy.
        is_writers: It may be ahead of storage: it keeps checkpoints, lines and events of the same run that storage does
            not have yet, and begins with all events otherwise.
        warn: Told of a damaged checkpoint where another one is whole.

    Raises:
        CheckpointError: Neither its best nor its newest checkpoint is whole.
        StorageError: Storage does not answer or refuses.
    """
    identity = storage.read_bytes(place / "run.json")
    if identity is None:
        storage.check_bucket(place)
    if identity is None or not _is_of(identity, copy):
        shutil.rmtree(copy, ignore_errors=True)  # of another run of this name
    copy.mkdir(parents=True, exist_ok=True)
    index = read_index(place)
    newest = max((path.name for path in _checkpoints(copy)), default="")
    is_ahead = is_writers and newest > (index.last if index else "")
    for name in FILES:
        if is_ahead and name == "metrics.jsonl":
            continue
        if not storage.fetch(place / name, copy / name):
            (copy / name).unlink(missing_ok=True)
    if is_ahead:
        return
    if is_writers:
        (copy / EVENTS).unlink(missing_ok=True)
        fetch_events(place, copy)
    for problem in _fetch_checkpoints(place, copy, index):
        if warn is not None:
            warn(f"{problem}; an older checkpoint is used")


def _is_of(identity: bytes, copy: Path) -> bool:
    """Return whether a copy is of the run of this run.json, of which only the id stays when it is resumed."""
    try:
        own = parse_json((copy / "run.json").read_bytes())
        return bool(parse_json(identity)["id"] == own["id"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def fetch_checkpoint(place: Remote, link: str) -> Path:
    """Bring one checkpoint of a run into the readers' working copy and return its directory.

    Args:
        place: The run.
        link: "best", "last", or the name of one.

    Raises:
        CheckpointError: There is none, or it is damaged.
        StorageError: Storage does not answer or refuses.
    """
    copy, index = storage.local_folder(place, purpose=READERS), read_index(place)
    names = dict(zip(index.folders, index.folders, strict=True)) if index else {}
    names |= {folder: name for name, folder in index.folders.items()} if index else {}
    names |= {"best": index.best, "last": index.last} if index else {}
    if index is None or link not in names:
        got = ", ".join(sorted(names)) or "none"
        raise CheckpointError(f"{place}/checkpoints/{link}: must be a checkpoint, there is {got}")
    name = names[link]
    _fetch_checkpoint(place, copy, name, index.folders[name])
    return copy / "checkpoints" / name


def _checkpoints(copy: Path) -> list[Path]:
    return list((copy / "checkpoints").glob("step-*"))


def _fetch_checkpoints(place: Remote, copy: Path, index: Index | None) -> list[str]:
    """Fetch what the index names; the writer may meanwhile delete it, having put another index."""
    problems: list[str] = []
    for _ in range(_ATTEMPTS):
        if index is None:
            shutil.rmtree(copy / "checkpoints", ignore_errors=True)
            return []
        problems = _fetch_named(place, copy, index)
        _link(copy, index)
        _prune(copy, index)
        now = read_index(place) if problems else index
        if now == index:
            break
        index = now
    if index and len(problems) == len({index.best, index.last}):
        raise CheckpointError(problems)
    return problems


def _fetch_named(place: Remote, copy: Path, index: Index) -> list[str]:
    problems: list[str] = []
    for name in sorted({index.best, index.last}):
        try:
            _fetch_checkpoint(place, copy, name, index.folders[name])
        except CheckpointError as error:
            problems += error.problems
    return problems


def _fetch_checkpoint(place: Remote, copy: Path, name: str, folder: str) -> None:
    target, source = copy / "checkpoints" / name, place / "checkpoints" / folder
    try:
        if remote_name(target) == folder:
            read_checkpoint(target)
            return
    except (FileNotFoundError, CheckpointError):
        pass
    fetched = target.with_name(f".{name}.{uuid.uuid4().hex}.fetch")
    try:
        for file in storage.list_files(source):
            storage.fetch(source / file, fetched / file)
        with storage.named(fetched, source):
            read_checkpoint(fetched)
        if _digest(fetched) != folder.rpartition(".")[2]:
            raise CheckpointError(f"{source}: is damaged, {CHECKPOINT_INDEX} was altered")
        if target.exists():
            target.rename(fetched.with_suffix(".replaced"))
        fetched.rename(target)
    finally:
        shutil.rmtree(fetched, ignore_errors=True)
        shutil.rmtree(fetched.with_suffix(".replaced"), ignore_errors=True)


def _link(copy: Path, index: Index) -> None:
    """Point `best` and `last` at what was fetched."""
    store = CheckpointStore(copy / "checkpoints")
    for link, name in ((store.best, index.best), (store.last, index.last)):
        if (store.directory / name).exists():
            store.link(link, store.directory / name)
        else:
            link.unlink(missing_ok=True)


def _prune(copy: Path, index: Index) -> None:
    """Drop checkpoints that storage does not have: at once those ahead of it, others when no reader can be at them."""
    for path in _checkpoints(copy):
        is_old = time.time() - path.stat().st_mtime > _SECONDS_KEPT
        if path.name not in index.folders and (path.name > index.last or is_old):
            shutil.rmtree(path, ignore_errors=True)


def fetch_sweep(place: Location) -> Path:
    """Bring what this machine has of a sweep's folder up to date, without checkpoints, and return it."""
    copy = storage.local_folder(place, purpose=READERS)
    if isinstance(place, Path):
        return copy
    names = [name for name in storage.list_files(place) if _is_of_a_sweep(name)]
    if "trials.json" not in names:  # of another sweep of this name
        shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(parents=True, exist_ok=True)
    for name in names:
        storage.fetch(place / name, copy / name)
    return copy


def _is_of_a_sweep(name: str) -> bool:
    parts = name.split("/")
    if len(parts) == 1:
        return name in ("trials.json", "sweep.yaml")
    is_trial = len(parts) == 3 and parts[0] == "trials"
    return is_trial and parts[2] in ("experiment.yaml", "metrics.jsonl")
