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
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Store:
    """An experiment of an MLflow store, opened.

    Attributes:
        client: MLflow's.
        experiment_id: Of the experiment.
        uri: Absolute, with secrets.
        database: The SQLite file, None where it is none.
        folder: The working folder when it was opened.
    """

    client: Any
    experiment_id: str
    uri: str
    database: Path | None
    folder: Path

    @property
    def shown(self) -> str:
        """The address as a person may see it."""
        return redact(self.uri)

    def answers(self) -> bool:
        """Ask it for something that it has."""
        try:
            self.client.get_experiment(self.experiment_id)
        except Exception:  # a store, its driver or a plugin may raise anything
            return False
        return True

    def describe(self) -> str:
        """Return where the experiment is and the command or address that opens it."""
        if self.uri.startswith(("http://", "https://")):
            return f"{self.shown.rstrip('/')}/#/experiments/{self.experiment_id}"
        # plain `mlflow ui` opens mlflow.db in its folder, but an old ./mlruns wins over it
        is_default = self.database == self.folder / "mlflow.db"
        if is_default and not (self.folder / "mlruns").exists():
            return f"{self.database}, open it with `{mlflow_command()} ui` in {self.folder}"
        return (
            f"{self.shown}, open it with `{mlflow_command()} ui --backend-store-uri '{self.shown}'`"
        )


def open_store(*, uri: str | None = None, experiment: str | None = None) -> Store:
    """Open a store and an experiment of it; both are made where they are missing.

    Args:
        uri: MLflow tracking URI; the environment's MLFLOW_TRACKING_URI by default, else `mlflow.db` in the working
            folder, with artifacts in `mlartifacts`.
        experiment: Name of the experiment; the environment's MLFLOW_EXPERIMENT_NAME by default, else `raypixel`.

    Raises:
        TrackingError: The store cannot be opened, or the experiment is deleted.
    """
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    from mlflow import MlflowClient

    where = "tracking URI" if uri else "MLFLOW_TRACKING_URI"
    given = uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    name = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME", "raypixel")
    folder = Path.cwd()
    address, database = _locate(given, folder)
    artifacts = None  # a server chooses
    if not address.startswith(("http://", "https://", "databricks")):
        artifacts = ((folder if database is None else database.parent) / "mlartifacts").as_uri()
    try:
        with nullcontext() if database is None else _alone_with(database):
            if database is not None:
                # also a quick test: MLflow tries for 100 s to open a file that cannot be opened
                _use_write_ahead_log(database)
            client = MlflowClient(tracking_uri=address)
            found = _find_experiment(client, name, artifacts)
    except Exception as error:  # a store, its driver or a plugin may raise anything
        rule = f"{where} must name an MLflow store that opens"
        raise TrackingError(f"{rule}, got {redact(address)!r}: {reason(error)}") from None
    if found.lifecycle_stage == "deleted":
        remedy = f"`{mlflow_command()} experiments restore -x {found.experiment_id}`"
        raise TrackingError(
            f"experiment {name!r} is deleted in {redact(address)}: take another name or run {remedy}"
        )
    return Store(client, found.experiment_id, address, database, folder)


def _find_experiment(client: Any, name: str, artifacts: str | None) -> Any:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.get_experiment(client.create_experiment(name, artifacts))
        except MlflowException:  # a server's other client was faster
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return found


def _locate(uri: str, folder: Path) -> tuple[str, Path | None]:
    """Return the URI with an absolute path, and the path where it is an SQLite file."""
    if not uri.startswith("sqlite:///") or uri == "sqlite:///:memory:":
        return uri, None
    name, mark, query = uri.removeprefix("sqlite:///").partition("?")
    path = folder / name
    return f"sqlite:///{path}{mark}{query}", path


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
