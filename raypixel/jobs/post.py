"""Messages from the process that trains to the one that watches, where they share storage and no folder.

The sender puts numbered objects of whole lines, one every two seconds at most, and the receiver asks for the next number and
appends it to a file of its own: the watching code follows that file as it follows one of a shared folder. Asking for one name
costs a tenth of listing; a day of a trial costs a few cents.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from raypixel import storage
from raypixel.errors import StorageError
from raypixel.jobs.worker import Message
from raypixel.storage import Location, Remote

MESSAGES = "messages.jsonl"
FOLDER = "messages"
SECONDS_BETWEEN = 2.0
PATIENCE = 60.0


@contextmanager
def sending(place: Location) -> Iterator[Callable[[Message], None]]:
    """Send messages by a folder; the last ones are sent when it ends."""
    if isinstance(place, Path):
        yield lambda message: _append(place / MESSAGES, _line(message))
        return
    outbox = _Outbox(place / FOLDER)
    try:
        yield outbox.send
    finally:
        outbox.close()


def _line(message: Message) -> str:
    return json.dumps(asdict(message)) + "\n"


def _append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


class _Outbox:
    """Put lines as objects 000001, 000002, ... on a thread."""

    def __init__(self, place: Remote) -> None:
        self.place = place
        self._lines: list[str] = []
        self._number = 0
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="outbox")
        self._thread.start()

    def send(self, message: Message) -> None:
        with self._lock:
            self._lines.append(_line(message))

    def close(self) -> None:
        self._is_over.set()
        self._thread.join(timeout=PATIENCE)

    def _run(self) -> None:
        tries = 0
        while True:
            was_over = self._is_over.wait(SECONDS_BETWEEN)
            is_put = self._put()
            tries += was_over
            if was_over and (is_put or tries > 3):
                return

    def _put(self) -> bool:
        """Put what there is; lines that cannot be put wait."""
        with self._lock:
            lines = list(self._lines)
        if not lines:
            return True
        try:
            if not self._number:  # after those of a process that was replaced by this one
                self._number = 1 + max(map(int, storage.list_files(self.place)), default=0)
            content = "".join(lines).encode()
            storage.write_bytes(self.place / f"{self._number:06d}", content)
        except StorageError:
            return False
        self._number += 1
        with self._lock:
            del self._lines[: len(lines)]
        return True


class Inbox:
    """Append the messages of any number of places to files of this machine, on a thread."""

    def __init__(self) -> None:
        self._next: dict[Remote, tuple[Path, int]] = {}
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self, place: Location, folder: Path) -> None:
        """Begin with a place, whose earlier messages are deleted; the folder gets the file."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MESSAGES).unlink(missing_ok=True)
        if not isinstance(place, Remote):
            return
        storage.delete_folder(place / FOLDER)
        with self._lock:
            self._next[place / FOLDER] = (folder / MESSAGES, 1)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True, name="inbox")
            self._thread.start()

    def drain(self, place: Location) -> None:
        """Fetch what a place has."""
        if isinstance(place, Remote):
            with self._lock:
                self._fetch(place / FOLDER)

    def shut(self, place: Location) -> None:
        """Fetch what a place has, and ask no more."""
        self.drain(place)
        if isinstance(place, Remote):
            with self._lock:
                self._next.pop(place / FOLDER, None)

    def close(self) -> None:
        """End the thread."""
        self._is_over.set()
        if self._thread is not None:
            self._thread.join(timeout=PATIENCE)

    def _run(self) -> None:
        while not self._is_over.wait(SECONDS_BETWEEN):
            for place in list(self._next):
                with self._lock:
                    self._fetch(place)

    def _fetch(self, place: Remote) -> None:
        while place in self._next:
            path, number = self._next[place]
            try:
                content = storage.read_bytes(place / f"{number:06d}")
            except StorageError:  # asked again
                return
            if content is None:
                return
            _append(path, content.decode())
            self._next[place] = (path, number + 1)
