"""Carry what a training writes into its working copy over to storage, behind its back.

A thread puts the newest state, so that the training never waits for storage. When storage does not answer it tries
again, ever less often, and says so once; the checkpoints are in the working copy meanwhile, and the newest is put when storage
answers.
"""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from raypixel import storage
from raypixel.checkpoint import CheckpointStore
from raypixel.errors import StorageError
from raypixel.jobs.remote_run import WRITER, Index, fetch_run, read_index, remote_name, write_index
from raypixel.storage import Location, Remote

LONGEST_PAUSE = 30.0
PATIENCE = 300.0
"""How long the end of a training waits for storage, in seconds."""
SECONDS_AFTER_ERROR = 15.0
SECONDS_BEFORE_END = 3.0


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
        self.warn = warn
        self.files = files
        self.problem: StorageError | None = None
        self._outbox = folder / "checkpoints" / f".outbox-{os.getpid()}-{id(self)}"
        self._sent: dict[str, tuple[int, int]] = {}
        self._state: _State | None = None
        self._changed = threading.Condition()
        self._asked = self._done = 0
        self._is_over = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="mirror")
        self._thread.start()

    def push(self) -> None:
        """Have the state of now put; a state not yet put is passed over."""
        with self._changed:
            state = self._snapshot()
            self._state = state or self._state
            self._asked += 1
            self._changed.notify_all()

    def flush(self, seconds: float = PATIENCE) -> bool:
        """Wait until everything pushed is put, and return whether it is."""
        with self._changed:
            wanted = self._asked
            return self._changed.wait_for(lambda: self._done >= wanted, timeout=seconds)

    def close(self, seconds: float = PATIENCE) -> None:
        """Put what is left and end.

        Raises:
            StorageError: Storage did not answer in time.
        """
        is_put = self.flush(seconds)
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        self._thread.join(timeout=60.0)
        shutil.rmtree(self._outbox, ignore_errors=True)
        if not is_put:
            reason = self.problem or f"{self.place}: storage is too slow"
            raise StorageError(f"{reason}; what could not be put is in {self.folder}")

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

    def _run(self) -> None:
        pause = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_over or self._asked > self._done)
                if self._is_over:
                    return
                asked, state = self._asked, self._state
            try:
                self._put(state)
            except (StorageError, OSError) as error:
                pause = min(LONGEST_PAUSE, 2 * pause or 1.0)
                self._complain(error)
                with self._changed:
                    self._changed.wait_for(lambda: self._is_over, timeout=pause)
                continue
            if self.problem is not None:
                self.problem = None
                self.warn(f"{self.place}: storage answers again, everything is put")
            pause = 0.0
            with self._changed:
                self._done = asked
                self._tidy()
                self._changed.notify_all()

    def _complain(self, error: Exception) -> None:
        is_first = self.problem is None
        known = isinstance(error, StorageError)
        self.problem = error if known else StorageError(f"{self.place}: {error}")  # type: ignore[assignment]
        if is_first:
            self.warn(f"{self.problem}; going on, and trying again")

    def _put(self, state: _State | None) -> None:
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
        kept = set(self._state.links.values()) if self._state else set()
        for path in self._outbox.glob("*"):
            if path not in kept:
                shutil.rmtree(path, ignore_errors=True)


def _hard_link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


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


@dataclass(frozen=True)
class Desk:
    """Where a training writes.

    Attributes:
        folder: The run's folder, or the working copy of it.
        saved: To be called when a checkpoint or a line was written.
        flush: Waits a few seconds until that is in storage.
    """

    folder: Path
    saved: Callable[[], None]
    flush: Callable[[], object]


@contextmanager
def writing(place: Location, warn: Callable[[str], None]) -> Iterator[Desk]:
    """Open a run's folder for the process that trains into it; at the end everything is in storage.

    Raises:
        StorageError: Storage does not answer, at the start or after some minutes at the end.
    """
    if isinstance(place, Path):
        yield Desk(place, lambda: None, lambda: None)
        return
    folder = fetch_run(place, purpose=WRITER, warn=warn)
    for leftover in (folder / "checkpoints").glob(".outbox-*"):  # of a killed process
        shutil.rmtree(leftover, ignore_errors=True)
    mirror = Mirror(folder, place, warn)
    with _closing(mirror, warn), storage.named(folder, place):
        mirror.push()  # what a killed process had not put
        if not mirror.flush(60.0):
            raise mirror.problem or StorageError(f"{place}: storage is too slow")
        yield Desk(folder, mirror.push, lambda: mirror.flush(SECONDS_BEFORE_END))
