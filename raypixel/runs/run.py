"""A run as an object: a folder, opened once; whoever has it sees a folder of this machine, wherever the run lives.

experiment.yaml        what is trained
run.json               the run's id, the checksum of its data, the code that it was begun with
checkpoints/           best, last
metrics.jsonl          one line for each epoch
events.jsonl           all that it told, line by line (`raypixel.runs.events`)
samples.png            drawn from the best checkpoint at the end
ray/                   what Ray Train leaves there while it runs
"""

import fcntl
import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from raypixel import storage, zoo
from raypixel.checkpoint import Checkpoint, CheckpointStore, read_checkpoint
from raypixel.config import dump_yaml, flatten, load_yaml, parse_json
from raypixel.data import Manifest, decide_residence
from raypixel.errors import CheckpointError, StorageError, written
from raypixel.experiment import ExperimentConfig, parse_experiment, relevant_options
from raypixel.runs import remote
from raypixel.runs.events import FILE_NAME as EVENTS
from raypixel.runs.events import (
    PIECES,
    Event,
    Follower,
    append_event,
    drop_half_line,
    fetch_events,
    following,
    put_events,
    read_events,
)
from raypixel.runs.lease import lease
from raypixel.runs.origin import origin_of_code
from raypixel.storage import Location, Remote

LOCK = ".lock"
RAY_FOLDER = "ray"


@dataclass(frozen=True)
class Run:
    """A run's folder.

    Attributes:
        home: Where it lives: a folder of this machine, or a place in storage.
        folder: What this machine has of it: the folder itself, or a working copy for readers.
    """

    home: Location
    folder: Path

    @classmethod
    def at(cls, place: str | Location) -> Self:
        """Name a run, which may not be there yet; nothing is read."""
        home = storage.absolute(storage.location(place))
        return cls(home, storage.local_folder(home, purpose=remote.READERS))

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.home.name

    @property
    def ray(self) -> Location:
        """Where Ray's own files go; made and removed by each training on Ray."""
        return self.home / RAY_FOLDER

    @property
    def _remote(self) -> Remote | None:
        return self.home if isinstance(self.home, Remote) else None

    def fetch(self, warn: Callable[[str], None] | None = None) -> Self:
        """Bring what this machine has of it up to date, without its events.

        Args:
            warn: Told of a damaged checkpoint where another one is whole.

        Raises:
            CheckpointError: Neither its best nor its newest checkpoint is whole.
            StorageError: Storage does not answer or refuses.
        """
        if self._remote is not None:
            remote.fetch_run(self._remote, self.folder, warn=warn)
        return self

    def begin(
        self,
        config: ExperimentConfig,
        manifest: Manifest,
        *,
        resume: bool,
        run_id: str | None = None,
        init: str | None = None,
    ) -> ExperimentConfig:
        """Make the folder, or check that the one there is the same training and may be continued.

        A folder in which nothing was saved yet, because its training failed at once, is free.

        Args:
            config: The experiment.
            manifest: Its prepared data set.
            resume: There may be a training already, which is continued.
            run_id: Of a new run; drawn by default.
            init: Name of the checkpoint whose weights a new run begins with.

        Returns:
            The experiment as it is trained: `data.backend` is decided, as it was before where it is resumed.

        Raises:
            CheckpointError: There is a training already, or the one to resume is another or has other data.
        """
        self.fetch()
        identity: dict[str, Any] = {
            "id": run_id or uuid.uuid4().hex,
            "data": manifest.digest,
            "data_source": str(manifest.origin.source),
            "num_images": {name: manifest.splits[name].num_images for name in ("train", "val")},
            "code": origin_of_code(),
            "init": init,
        }
        with storage.named(self.folder, self.home):
            is_there = self.has_checkpoint
            if is_there and not resume:
                raise CheckpointError(
                    f"{self.folder}: holds a training already: add --resume to continue it, "
                    "or --run NAME for another"
                )
            before = self.experiment() if is_there else None
            config = _decided(config, manifest, before)
            if before is not None:
                _check_same(before, config, self.folder)
                recorded = self.identity()
                identity |= {"id": recorded["id"], "init": recorded.get("init")}
                if recorded["data"] != manifest.digest:
                    raise CheckpointError(
                        f"{self.folder}: must be resumed with the same images, {config.data.name} "
                        f"under {config.data.root} was prepared anew from others"
                    )
        with written(self.folder, StorageError):
            self.folder.mkdir(parents=True, exist_ok=True)
        if before is None:  # what an earlier attempt told is not of this run
            (self.folder / EVENTS).unlink(missing_ok=True)
            storage.remove(self.home / PIECES)
        write_whole(self.folder / "experiment.yaml", dump_yaml(config))
        write_whole(self.folder / "run.json", json.dumps(identity, indent=1))
        self.put("experiment.yaml", "run.json")
        return config

    def put(self, *names: str) -> None:
        """Have files of the folder also where the run lives."""
        for name in names:
            if self._remote is not None and (self.folder / name).exists():
                storage.upload(self.folder / name, self._remote / name)

    @property
    def has_checkpoint(self) -> bool:
        """Whether anything was saved, as far as this machine knows."""
        return any((self.folder / "checkpoints").glob("step-*"))

    def experiment(self) -> ExperimentConfig:
        """Return what is trained."""
        path = self.folder / "experiment.yaml"
        return parse_experiment(load_yaml(path), where=str(self.folder))

    def identity(self) -> dict[str, Any]:
        """Return the content of run.json.

        Raises:
            CheckpointError: It cannot be read.
        """
        try:
            identity = parse_json((self.folder / "run.json").read_text())
            return {**identity, "id": str(identity["id"]), "data": str(identity["data"])}
        except (OSError, ValueError, KeyError, TypeError):
            raise CheckpointError(f"{self.folder}: is damaged, run.json cannot be read") from None

    def best(self) -> Checkpoint:
        """Read the checkpoint of the lowest validation likelihood; one in storage is fetched.

        Raises:
            CheckpointError: None was saved yet, or it is damaged.
            StorageError: Storage does not answer or refuses.
        """
        self.fetch()
        path = CheckpointStore(self.folder / "checkpoints").best
        if not path.exists():
            raise CheckpointError(
                f"{self.home}: has no checkpoint yet, its training had not saved one"
            )
        with storage.named(self.folder, self.home):
            return _of(read_checkpoint(path.resolve()), self.home)

    def last(self) -> Checkpoint:
        """Read the newest checkpoint that this machine has."""
        return read_checkpoint(CheckpointStore(self.folder / "checkpoints").last.resolve())

    def end(self, event: Event) -> None:
        """Write how the training ended; whoever wrote the events before has ended."""
        if self._remote is not None:
            fetch_events(self._remote, self.folder)
        drop_half_line(self.folder)
        append_event(self.folder, event)
        if self._remote is not None:
            put_events(self.folder, self._remote, None)

    def events(self) -> list[Event]:
        """Return all its events that this machine has."""
        return read_events(self.folder)[0]

    def fetch_events(self) -> None:
        """Bring the file of its events on this machine up to date."""
        if self._remote is not None:
            fetch_events(self._remote, self.folder)

    def join(self, follower: Follower, key: str) -> None:
        """Have a follower read its events from now on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        follower.add(key, self.folder, self._remote)

    @contextmanager
    def watched(self, on_event: Callable[[Event], None]) -> Iterator[None]:
        """Pass on, on a thread, the events of the training that other processes do meanwhile."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with following(self.folder, self._remote, on_event):
            yield

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Hold the folder: two trainings in one would delete each other's checkpoints.

        Raises:
            CheckpointError: Another process trains in it.
            StorageError: It is in storage that does not answer or refuses.
        """
        with claim(self.home):
            yield


@contextmanager
def claim(place: Location) -> Iterator[None]:
    """Hold a run's folder or a sweep's; see `Run.claim`."""
    if isinstance(place, Remote):
        with lease(place):
            yield
        return
    with written(place / LOCK, StorageError):
        place.mkdir(parents=True, exist_ok=True)
        # a link is not followed, and what is there is not emptied
        file = os.open(place / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CheckpointError(f"{place}: is being trained by another process") from None
        yield
    finally:
        os.close(file)


def find_checkpoint(place: str | Location) -> Checkpoint:
    """Read a checkpoint's folder, the best checkpoint of a run's folder, or a model of the zoo, `zoo:NAME`.

    What is in storage is fetched.

    Raises:
        CheckpointError: There is none, or it is damaged.
        StorageError: Storage does not answer or refuses.
    """
    found = storage.location(place)
    if isinstance(found, Path):
        if str(found).startswith(zoo.PREFIX):
            path = zoo.zoo_model(str(found).removeprefix(zoo.PREFIX))
            return replace(read_checkpoint(path), origin=found)
        is_run = (found / "experiment.yaml").exists()
        return Run(found, found).best() if is_run else read_checkpoint(found)
    if found.parent.name == "checkpoints":
        home = found.parent.parent
        return _of(read_checkpoint(remote.fetch_checkpoint(home, found.name)), home)
    if storage.read_bytes(found / "experiment.yaml") is None:
        storage.check_bucket(found)
        rule = "must be a run's folder or its checkpoints/best or last, got nothing there"
        raise CheckpointError(f"{found}: {rule}")
    return Run.at(found).best()


def write_whole(path: Path, text: str) -> None:
    """Replace a file; a reader sees the old one or the new one, also after the machine has died.

    Raises:
        StorageError: The disk is full or read-only.
    """
    temporary = path.with_suffix(".tmp")
    with written(path, StorageError):
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def differences(before: ExperimentConfig, after: ExperimentConfig, where: object) -> list[str]:
    """Return a line for each option that decides the result and is not as it was."""
    old, new = flatten(relevant_options(before)), flatten(relevant_options(after))
    return [
        f"{where}: must be resumed with {key} {old.get(key)!r} as before, got {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def _check_same(before: ExperimentConfig, after: ExperimentConfig, folder: Path) -> None:
    if problems := differences(before, after, folder):
        raise CheckpointError(problems)


def _decided(
    config: ExperimentConfig, manifest: Manifest, before: ExperimentConfig | None
) -> ExperimentConfig:
    """Return an experiment whose data is in memory or streamed: the order of the images differs between the two."""
    recorded = None if before is None else before.data.backend
    data = decide_residence(config.data, manifest, recorded=recorded)
    decided = config if before is None else compiled_as(before, config)
    return decided.model_copy(update={"data": data})


def compiled_as(before: ExperimentConfig, config: ExperimentConfig) -> ExperimentConfig:
    """Return an experiment that leaves it to an earlier part of its training whether steps are compiled.

    Before there was `auto`, they were not by default; since then the checkpoint says what was decided.
    """
    if config.training.compile != "auto":
        return config
    training = config.training.model_copy(update={"compile": before.training.compile})
    return config.model_copy(update={"training": training})


def _of(checkpoint: Checkpoint, home: Location) -> Checkpoint:
    if isinstance(home, Path):
        return checkpoint
    return replace(checkpoint, origin=home / "checkpoints" / checkpoint.path.name)
