"""The MLflow store: where it is, how it is opened, and what is said about it.

An SQLite store is opened under a lock on a file beside it: processes that create one at once would each find that the
tables are missing and all but the first fail to make them.
"""

import fcntl
import os
import re
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

from raypixel.errors import RaypixelError

# Set where the user has not set them. The writer repeats what fails, so one request tries once.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


_LOCK_WAIT_S = 120.0  # making a database takes 3 s, on a busy machine 20 s; opening one is quick
_LOCK_PERIOD_S = 0.05


class TrackingError(RaypixelError):
    """Report an MLflow store that cannot be opened."""


def locate(uri: str, folder: Path) -> tuple[str, Path | None]:
    """Return the URI with an absolute path, and the path where it is an SQLite file."""
    if not uri.startswith("sqlite:///") or uri == "sqlite:///:memory:":
        return uri, None
    name, mark, query = uri.removeprefix("sqlite:///").partition("?")
    path = folder / name
    return f"sqlite:///{path}{mark}{query}", path


def open_store(
    uri: str, experiment: str, *, where: str, database: Path | None, artifacts: Path | None
) -> tuple[Any, str]:
    """Return a client and the experiment's id; the database and the experiment exist afterwards.

    Args:
        uri: Absolute MLflow tracking URI.
        experiment: Name of the experiment.
        where: What to call the URI's origin in an error.
        database: The SQLite file that the URI names, None where it names none.
        artifacts: Where a new experiment's artifacts go; None leaves it to the store.

    Raises:
        TrackingError: The store cannot be opened, or the experiment is deleted.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        with nullcontext() if database is None else _alone_with(database):
            if database is not None:
                # also a quick test: MLflow tries for 100 s to open a file that cannot be opened
                _use_write_ahead_log(database)
            client = MlflowClient(tracking_uri=uri)
            found = client.get_experiment_by_name(experiment)
            if found is None:
                try:
                    location = None if artifacts is None else artifacts.as_uri()
                    return client, client.create_experiment(experiment, location)
                except MlflowException:  # a server's other client was faster
                    found = client.get_experiment_by_name(experiment)
                    if found is None:
                        raise
    except Exception as error:  # a store, its driver or a plugin may raise anything
        rule = f"{where} must name an MLflow store that opens"
        raise TrackingError(f"{rule}, got {redact(uri)!r}: {reason(error)}") from None
    if found.lifecycle_stage == "deleted":
        remedy = f"`{mlflow_command()} experiments restore -x {found.experiment_id}`"
        raise TrackingError(
            f"experiment {experiment!r} is deleted in {redact(uri)}: take another name or run {remedy}"
        )
    return client, found.experiment_id


@contextmanager
def _alone_with(database: Path) -> Iterator[None]:
    """Keep other trackers from opening an SQLite file meanwhile; its folder is made where it is missing.

    The lock is on a file beside the database, `.mlflow.db.lock` for `mlflow.db`: closing the database itself would end
    SQLite's own locks on it. The file stays, since removing it would let two processes lock two files of one name;
    the lock ends with its process.
    """
    database.parent.mkdir(parents=True, exist_ok=True)
    path = database.with_name(f".{database.name}.lock")
    with path.open("a") as file:
        deadline = time.monotonic() + _LOCK_WAIT_S
        while not _is_locked_by_us(file):
            if time.monotonic() > deadline:
                rule = f"{path} must be free within {_LOCK_WAIT_S:g} s"
                raise TimeoutError(f"{rule}, got another process that keeps it locked")
            time.sleep(_LOCK_PERIOD_S)
        yield


def _is_locked_by_us(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _use_write_ahead_log(database: Path) -> None:
    """Let readers not wait for the writer, nor it for them; the file remembers it."""
    connection = sqlite3.connect(database, timeout=20.0)
    try:
        connection.execute("PRAGMA journal_mode=WAL").fetchall()
    finally:
        connection.close()


def mlflow_command() -> str:
    """Return what a shell must be given to run this environment's `mlflow`."""
    command = Path(sys.executable).with_name("mlflow")
    found = shutil.which("mlflow")
    if not command.exists() or (found and Path(found).resolve() == command.resolve()):
        return "mlflow"
    return os.path.relpath(command) if command.is_relative_to(Path.cwd()) else str(command)


def reason(error: Exception) -> str:
    """Return an error's text in one short line."""
    text = redact(" ".join(str(error).split()))
    if "Read timed out" in text or "ConnectTimeout" in text:
        return "no answer in time"
    system = re.search(r"(?:\[Errno -?\d+\] |Error\(\d+, '|RemoteDisconnected\(')([^'\")]+)", text)
    if system:
        return system[1].strip(" :")
    text = text or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}..."


def redact(text: str) -> str:
    """Hide user names and passwords of URIs."""
    return re.sub(r"://[^/@\s]+@", "://***@", text)
