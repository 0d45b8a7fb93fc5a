"""A run's folder, the same whatever trains into it.

experiment.yaml        what is trained
run.json               the run's id, and the checksum of its data
checkpoints/           best, last
metrics.jsonl          one line for each epoch
"""

import fcntl
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from raypixel import storage
from raypixel.checkpoint import Checkpoint, CheckpointStore, read_checkpoint
from raypixel.config import dump_yaml, flatten, load_yaml
from raypixel.data import Manifest
from raypixel.errors import CheckpointError
from raypixel.experiment import ExperimentConfig, parse_experiment, relevant_options
from raypixel.jobs.lease import lease
from raypixel.jobs.remote_run import fetch_checkpoint, fetch_run, put_files
from raypixel.storage import Location, Remote

LOCK = ".lock"


def open_run(config: ExperimentConfig, manifest: Manifest, folder: Path, *, resume: bool) -> str:
    """Make a run's folder, or check that the one there is the same training and may be continued.

    A folder in which nothing was saved yet, because its training failed at once, is free.

    Returns:
        The id of the run, the same when it is resumed.

    Raises:
        CheckpointError: There is a training already, or the one to resume is another or has other data.
    """
    identity = {"id": uuid.uuid4().hex, "data": manifest.digest}
    if any((folder / "checkpoints").glob("step-*")):
        if not resume:
            raise CheckpointError(
                f"{folder}: holds a training already: add --resume to continue it, "
                "or --run NAME for another"
            )
        before = load_yaml(folder / "experiment.yaml")
        _check_same(parse_experiment(before, where=str(folder)), config, folder)
        identity = _read_identity(folder)
        if identity["data"] != manifest.digest:
            raise CheckpointError(
                f"{folder}: must be resumed with the same images, {config.data.name} under "
                f"{config.data.root} was prepared anew from others"
            )
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "experiment.yaml", dump_yaml(config))
    _write(folder / "run.json", json.dumps(identity))
    return identity["id"]


def begin_run(
    config: ExperimentConfig, manifest: Manifest, place: Location, *, resume: bool
) -> str:
    """Do what `open_run` does, in storage too: what is there is fetched, and what is written is put."""
    folder = fetch_run(place)
    with storage.named(folder, place):
        run_id = open_run(config, manifest, folder, resume=resume)
    put_files(place, "experiment.yaml", "run.json")
    return run_id


def best_checkpoint(place: Location) -> Checkpoint:
    """Read the best checkpoint of a run; one in storage is fetched.

    Raises:
        CheckpointError: None was saved yet, or it is damaged.
        StorageError: Storage does not answer or refuses.
    """
    folder = fetch_run(place)
    best = CheckpointStore(folder / "checkpoints").best
    if not best.exists():
        raise CheckpointError(f"{place}: has no checkpoint yet, its training had not saved one")
    with storage.named(folder, place):
        return _named(read_checkpoint(best.resolve()), place)


def remote_checkpoint(place: Remote) -> Checkpoint:
    """Read the best checkpoint of a run in storage, or the `checkpoints/best` or `last` that it is asked for.

    Raises:
        CheckpointError: There is none, or it is damaged.
        StorageError: Storage does not answer or refuses.
    """
    if place.parent.name == "checkpoints":
        run = place.parent.parent
        return _named(read_checkpoint(fetch_checkpoint(run, place.name)), run)
    if storage.read_bytes(place / "experiment.yaml") is None:
        storage.check_bucket(place)
        rule = "must be a run's folder or its checkpoints/best or last, got nothing there"
        raise CheckpointError(f"{place}: {rule}")
    return best_checkpoint(place)


def _named(checkpoint: Checkpoint, run: Location) -> Checkpoint:
    if isinstance(run, Path):
        return checkpoint
    return replace(checkpoint, origin=run / "checkpoints" / checkpoint.path.name)


def last_checkpoint(folder: Path) -> Checkpoint:
    """Read the newest checkpoint of a run that has one."""
    return read_checkpoint(CheckpointStore(folder / "checkpoints").last.resolve())


@contextmanager
def claim(place: Location) -> Iterator[None]:
    """Hold a run's folder: two trainings in one would delete each other's checkpoints.

    Raises:
        CheckpointError: Another process trains in it.
        StorageError: It is in storage that does not answer or refuses.
    """
    if isinstance(place, Remote):
        with lease(place):
            yield
        return
    folder = place
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CheckpointError(f"{folder}: is being trained by another process") from None
        yield


class MetricsFile:
    """The lines of metrics.jsonl: one for each epoch, flushed to the disk as it ends."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "metrics.jsonl"

    def append(self, line: dict[str, float]) -> None:
        """Add a line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def forget_after(self, step: int) -> None:
        """Drop lines of epochs that will be trained again, and a half-written one."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except ValueError:
                break
        _write(self.path, "".join(kept))


def _check_same(before: ExperimentConfig, after: ExperimentConfig, folder: Path) -> None:
    old, new = flatten(relevant_options(before)), flatten(relevant_options(after))
    differences = [
        f"{folder}: must be resumed with {key} {old.get(key)!r} as before, got {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if differences:
        raise CheckpointError(differences)


def _read_identity(folder: Path) -> dict[str, str]:
    try:
        identity = json.loads((folder / "run.json").read_text())
        return {"id": identity["id"], "data": identity["data"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(f"{folder}: is damaged, run.json cannot be read") from None


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
