"""Hold a run's place in storage, against two trainings in one by mistake.

pyarrow has no conditional put, so this is a lease and no lock: an object says who writes and is put again every few seconds. Who
comes later is refused while it is fresh. Two that come within the same second may both believe that they hold it;
each looks again after a moment, and one gives way.
"""

import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from raypixel import storage
from raypixel.errors import CheckpointError, StorageError
from raypixel.runs.background import Background
from raypixel.storage import Remote

OBJECT = "lease.json"
SECONDS_FRESH = 30.0
SECONDS_BETWEEN = 8.0
SECONDS_TO_SETTLE = 0.3


@contextmanager
def lease(place: Remote) -> Iterator[None]:
    """Hold a place.

    Raises:
        CheckpointError: Another process trains in it.
        StorageError: Storage does not answer or refuses.
    """
    own = {"id": uuid.uuid4().hex, "host": _host(), "process": os.getpid()}
    _refuse_other(place, _read(place), own)
    _write(place, own)
    time.sleep(SECONDS_TO_SETTLE)
    _refuse_other(place, _read(place), own)
    keeper = Background(lambda: _keep(place, own), name="lease", every=SECONDS_BETWEEN)
    try:
        yield
    finally:
        keeper.stop()
        _give_back(place, own)


def _refuse_other(place: Remote, found: dict[str, Any] | None, own: dict[str, Any]) -> None:
    if found is None or found.get("id") == own["id"] or _is_dead(found):
        return
    put, now = storage.modified(place / OBJECT), _time_of_storage(place, own)
    age = (now - put).total_seconds() if put and now else SECONDS_FRESH
    if age < SECONDS_FRESH:
        raise CheckpointError(
            f"{place}: is being trained by process {found.get('process')} on {found.get('host')}, "
            f"seen {max(0.0, age):.0f} s ago; if that has died, try again in {SECONDS_FRESH - age:.0f} s"
        )


def _time_of_storage(place: Remote, own: dict[str, Any]) -> datetime | None:
    """Return the time by the clock that dates the lease: that of this machine may be another."""
    mark = place / f"clock-{own['id']}"
    storage.write_bytes(mark, b"")
    try:
        return storage.modified(mark)
    finally:
        storage.delete([mark])


def _is_dead(found: dict[str, Any]) -> bool:
    """Return whether the holder was a process of this machine that is gone."""
    if found.get("host") != _host():
        return False
    try:
        os.kill(int(found["process"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, KeyError, ValueError):
        return False
    return False


def _host() -> str:
    return f"{socket.gethostname()}-{uuid.getnode():x}"


def _read(place: Remote) -> dict[str, Any] | None:
    content = storage.read_bytes(place / OBJECT)
    try:
        found = json.loads(content) if content else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _write(place: Remote, own: dict[str, Any]) -> None:
    storage.write_bytes(place / OBJECT, json.dumps(own).encode())


def _keep(place: Remote, own: dict[str, Any]) -> None:
    """Put it again; where storage does not answer, it is tried again, and who writes the run says so."""
    if _read(place) in (None, own):
        _write(place, own)


def _give_back(place: Remote, own: dict[str, Any]) -> None:
    try:
        if _read(place) == own:
            storage.delete([place / OBJECT])
    except StorageError:  # it runs out
        return
