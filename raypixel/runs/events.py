"""The one channel of news: a training appends events to events.jsonl in its run's folder, everything else follows that file.

The progress bar, the sweep's table and MLflow each read it from where they stood. A file and not a queue: nothing is lost when a
process ends, who comes later reads what came before, and an actor that is asked three times a second costs a small machine more
than the events do.

In storage, where nothing can be appended to, the file is a folder of pieces, `events/000000001234`, each named by the number of
bytes before it. So a reader whose copy has n bytes asks for the object of that name, a writer goes on where the last piece ends,
and neither keeps any other state. Asking for one name costs a tenth of listing.
"""

import fcntl
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from raypixel import storage
from raypixel.config import parse_json
from raypixel.errors import CheckpointError, StorageError, written
from raypixel.runs.background import Background
from raypixel.storage import Remote

FILE_NAME = "events.jsonl"
PIECES = "events"
SECONDS_BETWEEN_LOOKS = 0.3
SECONDS_BETWEEN_FETCHES = 2.0

Status = Literal["done", "stopped", "failed", "killed"]


@dataclass(frozen=True)
class Event:
    """One line of news of a training.

    Attributes:
        kind: "step" at most twice a second, "epoch" after each validation, "warning" with a text, "end".
        step: Complete steps.
        total_steps: Steps of the whole training.
        epoch: Complete epochs.
        seconds: Training time so far.
        metrics: Numbers by name.
        text: Of a warning; at the end what went wrong, or what stopped it.
        status: At the end, how it ended.
        time: When it was written, seconds since 1970.
    """

    kind: Literal["step", "epoch", "warning", "end"]
    step: int = 0
    total_steps: int = 0
    epoch: int = 0
    seconds: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    text: str = ""
    status: Status | None = None
    time: float = field(default_factory=time.time)

    def to_line(self) -> str:
        """Return it as a line of JSON, without what is empty."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return json.dumps({name: value for name, value in values.items() if value}) + "\n"


_EVENT = TypeAdapter(Event)


def append_event(folder: Path, event: Event) -> None:
    """Add a line to the file of a run's folder."""
    path = folder / FILE_NAME
    with written(path, StorageError), path.open("a") as file:
        file.write(event.to_line())


def drop_half_line(folder: Path) -> None:
    """Cut off what a killed process wrote of its last line."""
    with suppress(FileNotFoundError), (folder / FILE_NAME).open("r+b") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)


def read_events(folder: Path, position: int = 0) -> tuple[list[Event], int]:
    """Return the events after a position of the file, and the position behind them; a half-written line is left for later.

    Raises:
        CheckpointError: A line is not ours.
    """
    try:
        with (folder / FILE_NAME).open("rb") as file:
            file.seek(position)
            new = file.read()
    except FileNotFoundError:
        return [], position
    whole = new[: new.rfind(b"\n") + 1]
    try:
        events = [_EVENT.validate_python(parse_json(line)) for line in whole.splitlines()]
    except ValueError:
        raise CheckpointError(f"{folder / FILE_NAME}: is damaged and cannot be read") from None
    return events, position + len(whole)


def num_bytes(folder: Path) -> int:
    """Return the size of the file: the position behind what is there."""
    path = folder / FILE_NAME
    return path.stat().st_size if path.exists() else 0


def fetch_events(place: Remote, folder: Path) -> None:
    """Append what storage has of a run's events, and the copy has not."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".events.lock").open("a") as lock:  # several threads and processes may do so
        fcntl.flock(lock, fcntl.LOCK_EX)
        while content := storage.read_bytes(place / PIECES / f"{num_bytes(folder):012d}"):
            with (folder / FILE_NAME).open("ab") as file:
                file.write(content)


def put_events(folder: Path, place: Remote, sent: int | None) -> int:
    """Put what a copy has of a run's events, and storage has not; return how many bytes storage has.

    Args:
        folder: The copy, whose file begins with what storage has.
        place: The run.
        sent: Bytes that storage has, as the last call returned; None asks it.
    """
    if sent is None:
        pieces = storage.list_files(place / PIECES)
        ours = {int(name): size for name, size in pieces.items() if name.isdecimal()}
        sent = max((begin + size for begin, size in ours.items()), default=0)
    if num_bytes(folder) <= sent:
        return sent
    with (folder / FILE_NAME).open("rb") as file:
        file.seek(sent)
        new = file.read()
    whole = new[: new.rfind(b"\n") + 1]
    if whole:
        storage.write_bytes(place / PIECES / f"{sent:012d}", whole)
    return sent + len(whole)


@dataclass
class _Followed:
    folder: Path
    place: Remote | None
    position: int


class Follower:
    """Read the events of any number of runs as they come, here or through storage; each by a key of the caller's."""

    def __init__(self) -> None:
        self._followed: dict[str, _Followed] = {}
        self._lock = threading.Lock()  # never held while storage is asked
        self._fetch_lock = threading.Lock()
        self._fetching: Background | None = None

    def add(self, key: str, folder: Path, place: Remote | None = None) -> None:
        """Begin behind what is there now.

        Args:
            key: Names the run.
            folder: Of the run on this machine.
            place: Where it comes from, if other machines write it into storage.
        """
        if place is not None:
            fetch_events(place, folder)
        with self._lock:
            self._followed[key] = _Followed(folder, place, num_bytes(folder))
        if place is not None and self._fetching is None:
            self._fetching = Background(
                self._fetch_all, name="events", every=SECONDS_BETWEEN_FETCHES
            )

    def read(self) -> list[tuple[str, Event]]:
        """Return what is new, run by run; asked often."""
        return [(key, event) for key in list(self._followed) for event in self._read(key)]

    def remove(self, key: str) -> list[Event]:
        """Return what is new of one run, to the end, and follow it no more."""
        followed = self._followed.get(key)
        if followed is None:
            return []
        if followed.place is not None:
            with suppress(StorageError):  # what cannot be had now is in storage
                self._fetch(followed)
        new = self._read(key)
        with self._lock:
            del self._followed[key]
        return new

    def close(self) -> None:
        """End."""
        if self._fetching is not None:
            self._fetching.stop()

    def _read(self, key: str) -> list[Event]:
        with self._lock:
            followed = self._followed.get(key)
            if followed is None:
                return []
            events, followed.position = read_events(followed.folder, followed.position)
            return events

    def _fetch_all(self) -> None:
        problem: StorageError | None = None
        for followed in list(self._followed.values()):
            try:
                if followed.place is not None:
                    self._fetch(followed)
            except StorageError as error:
                problem = error
        if problem is not None:
            raise problem

    def _fetch(self, followed: _Followed) -> None:
        with self._fetch_lock:
            assert followed.place is not None
            fetch_events(followed.place, followed.folder)


@contextmanager
def following(
    folder: Path,
    place: Remote | None,
    on_event: Callable[[Event], object],
    *,
    every: float | None = SECONDS_BETWEEN_LOOKS,
) -> Iterator[Callable[[], None]]:
    """Pass a run's events on to a callback, each once and in order.

    Args:
        folder: Of the run on this machine.
        place: See `Follower.add`.
        on_event: Called on a thread, or by the caller's thread.
        every: Seconds between looks of the thread; None has none, for a training in this process.

    Yields:
        What passes on at once, in the calling thread, what has come so far.
    """
    follower = Follower()
    follower.add("", folder, place)
    in_turn = threading.RLock()  # a callback may lead to another event

    def pass_on() -> None:
        with in_turn:
            for _, event in follower.read():
                on_event(event)

    looking = None if every is None else Background(pass_on, name="progress", every=every)
    try:
        yield pass_on
    finally:
        if looking is not None:
            looking.stop()
        with in_turn:
            for event in follower.remove(""):
                on_event(event)
        follower.close()
