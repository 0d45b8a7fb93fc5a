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
from pathlib import Path

from raypixel.checkpoint import Checkpoint, CheckpointStore, read_checkpoint
from raypixel.config import dump_yaml, flatten, load_yaml
from raypixel.data import Manifest
from raypixel.errors import CheckpointError
from raypixel.experiment import ExperimentConfig, parse_experiment, relevant_options


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


def best_checkpoint(folder: Path) -> Checkpoint:
    """Read the best checkpoint of a run.

    Raises:
        CheckpointError: None was saved yet, or it is damaged.
    """
    best = CheckpointStore(folder / "checkpoints").best
    if not best.exists():
        raise CheckpointError(f"{folder}: has no checkpoint yet, its training had not saved one")
    return read_checkpoint(best.resolve())


def last_checkpoint(folder: Path) -> Checkpoint:
    """Read the newest checkpoint of a run that has one."""
    return read_checkpoint(CheckpointStore(folder / "checkpoints").last.resolve())


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Hold a run's folder: two trainings in one would delete each other's checkpoints.

    Raises:
        CheckpointError: Another process trains in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
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
