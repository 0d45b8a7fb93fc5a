"""Where a training writes: its run's folder, or a working copy that is carried over to storage behind its back.

The newest state is put by a thread, so that the training never waits for storage. When storage does not answer it tries
again, ever less often, and says so once; the checkpoints are in the working copy meanwhile, and the newest is put when storage
answers.
"""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from raypixel import storage
from raypixel.checkpoint import CheckpointStore
from raypixel.config import parse_json
from raypixel.errors import StorageError, written
from raypixel.runs import remote
from raypixel.runs.background import Background
from raypixel.runs.events import (
    Event,
    append_event,
    drop_half_line,
    following,
    put_events,
)
from raypixel.runs.remote import Index, read_index, remote_name, write_index
from raypixel.runs.run import Run, write_whole
from raypixel.storage import Location, Remote

PATIENCE = 300.0
"""How long the end of a training waits for storage, in seconds."""
SECONDS_AFTER_ERROR = 15.0
SECONDS_BEFORE_END = 3.0
SECONDS_BETWEEN_PIECES = (2.0, 30.0)
"""Between pieces of the events that are put into storage: at first, and at most, when a training is old."""


@dataclass(frozen=True)
class _State:
    """What is to be put: checkpoints as hard links, which stay when the training deletes its own."""

    links: dict[str, Path]
    best: str
    last: str


class Mirror:
    """Keep a place in storage equal to a working copy."""

    def __init__(
        self,
        folder: Path,
        place: Remote,
        warn: Callable[[str], None],
        *,
        files: tuple[str, ...] = ("metrics.jsonl",),
    ) -> None:
        """Start the thread.

        Args:
            folder: The working copy.
            place: Where it goes.
            warn: Shows a line, called on the thread.
            files: Files that change, beside checkpoints.
        """
        self.folder = folder
        self.place = place
        self.files = files
        self._outbox = folder / "checkpoints" / f".outbox-{os.getpid()}-{id(self)}"
        self._sent: dict[str, tuple[int, int]] = {}
        self._state: _State | None = None
        self._lock = threading.Lock()
        self._putting = Background(
            self._put,
            name="mirror",
            failed=lambda error: warn(f"{self._told(error)}; going on, and trying again"),
            mended=lambda: warn(f"{place}: storage answers again, everything is put"),
        )

    def push(self) -> None:
        """Have the state of now put; a state not yet put is passed over."""
        with self._lock:
            self._state = self._snapshot() or self._state
        self._putting.ask()

    def flush(self, seconds: float = PATIENCE) -> bool:
        """Wait until everything pushed is put, and return whether it is."""
        return self._putting.flush(seconds)

    def problem(self) -> StorageError:
        """Return why it is not."""
        error = self._putting.problem
        return self._told(error) if error else StorageError(f"{self.place}: storage is too slow")

    def close(self, seconds: float = PATIENCE) -> None:
        """Put what is left and end.

        Raises:
            StorageError: Storage did not answer in time.
        """
        is_put = self._putting.flush(seconds)
        reason = None if is_put else self.problem()
        self._putting.stop()
        shutil.rmtree(self._outbox, ignore_errors=True)
        if reason is not None:
            raise StorageError(f"{reason}; what could not be put is in {self.folder}")

    def _told(self, error: Exception) -> StorageError:
        return error if isinstance(error, StorageError) else StorageError(f"{self.place}: {error}")

    def _snapshot(self) -> _State | None:
        store = CheckpointStore(self.folder / "checkpoints")
        if not store.last.exists():
            return None
        best, last = store.best.resolve(), store.last.resolve()
        links = {}
        for path in {best, last}:
            links[path.name] = self._outbox / remote_name(path)
            if not links[path.name].exists():
                shutil.copytree(path, links[path.name], copy_function=_hard_link)
        return _State(links, best.name, last.name)

    def _put(self) -> None:
        with self._lock:
            state = self._state
        for name in self.files:  # before the checkpoint: lines too many are dropped when resuming
            path = self.folder / name
            if not path.exists():
                continue
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            if self._sent.get(name) != stamp:
                storage.upload(path, self.place / name)
                self._sent[name] = stamp
        if state is not None:
            self._put_checkpoints(state)
            self._tidy()

    def _put_checkpoints(self, state: _State) -> None:
        checkpoints = self.place / "checkpoints"
        folders = {name: path.name for name, path in state.links.items()}
        index = Index(folders, state.best, state.last)
        before = read_index(self.place)
        if before == index:
            return
        there = set(before.folders.values()) if before else set()
        for path in state.links.values():
            if path.name not in there:
                for file in sorted(path.iterdir()):
                    storage.upload(file, checkpoints / path.name / file.name)
        write_index(self.place, index)
        found = {name.partition("/")[0] for name in storage.list_files(checkpoints) if "/" in name}
        for old in sorted(found - set(folders.values())):  # those of a killed writer among them
            storage.delete_folder(checkpoints / old)

    def _tidy(self) -> None:
        with self._lock:
            kept = set(self._state.links.values()) if self._state else set()
            for path in self._outbox.glob("*"):
                if path not in kept:
                    shutil.rmtree(path, ignore_errors=True)


def _hard_link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


class EventLog:
    """Append events to the file of a run's folder, and put them into storage if it lives there.

    Attributes:
        appended: Called after each event.
    """

    def __init__(self, folder: Path, place: Remote | None) -> None:
        self.folder = folder
        self.appended: Callable[[], None] = lambda: None
        drop_half_line(folder)
        self._sent: int | None = None
        self._lock = threading.Lock()
        self._began_at = time.monotonic()
        self._putting = (
            None
            if place is None
            else Background(lambda: self._put(place), name="events", rest=self._rest)
        )

    def append(self, event: Event) -> None:
        """Write an event."""
        with self._lock:
            append_event(self.folder, event)
        if self._putting is not None:
            self._putting.ask()
        self.appended()

    def close(self, seconds: float) -> None:
        """Have the last ones put."""
        if self._putting is not None:
            self._putting.close(seconds)

    def _rest(self) -> float:
        least, most = SECONDS_BETWEEN_PIECES
        return min(most, max(least, (time.monotonic() - self._began_at) / 200))

    def _put(self, place: Remote) -> None:
        self._sent = put_events(self.folder, place, self._sent)


@dataclass(frozen=True)
class RunWriter:
    """What a training writes with; for one process of a run.

    Attributes:
        folder: The run's folder, or the working copy of it.
        events: Takes its news.
        saved: To be called when a checkpoint or a line of metrics.jsonl was written.
        flush: Waits a few seconds until that is in storage.
    """

    folder: Path
    events: EventLog
    saved: Callable[[], None]
    flush: Callable[[], object]

    def warn(self, text: str) -> None:
        """Tell those who follow."""
        self.events.append(Event("warning", text=text))

    def append_metrics(self, line: dict[str, float]) -> None:
        """Add an epoch to metrics.jsonl, flushed to the disk."""
        path = self.folder / "metrics.jsonl"
        with written(path, StorageError), path.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def forget_after(self, step: int) -> None:
        """Drop the lines of metrics.jsonl of epochs that will be trained again, and a half-written one."""
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return
        kept = []
        for line in path.read_text().splitlines():
            try:
                if parse_json(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                break
        write_whole(path, "".join(kept))


@contextmanager
def writing(run: Run, on_event: Callable[[Event], object] = str) -> Iterator[RunWriter]:
    """Open a run for the process that trains into it; at the end everything is in storage.

    Args:
        run: The run, of which this process is the only writer.
        on_event: Told of each event in this process, when it is written.

    Raises:
        StorageError: Storage does not answer, at the start or after some minutes at the end.
    """
    place, problems = run.home, list[str]()
    folder = storage.local_folder(place, purpose=remote.WRITER)
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(place, Remote):
        remote.fetch_run(place, folder, is_writers=True, warn=problems.append)
        for leftover in (folder / "checkpoints").glob(".outbox-*"):  # of a killed process
            shutil.rmtree(leftover, ignore_errors=True)
    events = EventLog(folder, place if isinstance(place, Remote) else None)
    with following(folder, None, on_event, every=None) as pass_on:
        events.appended = pass_on
        for problem in problems:
            events.append(Event("warning", text=problem))
        try:
            with _mirrored(run, folder, events) as writer:
                yield writer
        finally:
            events.close(SECONDS_AFTER_ERROR)


@contextmanager
def _mirrored(run: Run, folder: Path, events: EventLog) -> Iterator[RunWriter]:
    place = run.home
    if isinstance(place, Path):
        yield RunWriter(folder, events, lambda: None, lambda: None)
        return
    mirror = Mirror(folder, place, lambda text: events.append(Event("warning", text=text)))
    writer = RunWriter(folder, events, mirror.push, lambda: mirror.flush(SECONDS_BEFORE_END))
    with _closing(mirror, writer.warn), storage.named(folder, place):
        mirror.push()  # what a killed process had not put
        if not mirror.flush(60.0):
            raise mirror.problem()
        yield writer


@contextmanager
def carrying(
    folder: Path, place: Location, warn: Callable[[str], None], files: tuple[str, ...]
) -> Iterator[Callable[[], None]]:
    """Give what is to be called when some files of a working copy changed; at the end they are in storage."""
    if isinstance(place, Path):
        yield lambda: None
        return
    mirror = Mirror(folder, place, warn, files=files)
    with _closing(mirror, warn):
        yield mirror.push


@contextmanager
def _closing(mirror: Mirror, warn: Callable[[str], None]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        try:
            mirror.close(SECONDS_AFTER_ERROR)
        except StorageError as error:  # what went wrong before is what is told
            warn(str(error))
        raise
    mirror.close()


@contextmanager
def reading(run: Run) -> Iterator[Path]:
    """Give the folder that a worker which does not write begins with; it has what storage has, and nothing more."""
    folder = storage.local_folder(run.home, purpose=remote.FOLLOWER)
    if not isinstance(run.home, Path):
        remote.fetch_run(run.home, folder)
    yield folder
