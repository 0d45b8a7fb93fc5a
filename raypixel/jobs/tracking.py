"""Tracking with MLflow, the only module that imports it: a lost server neither stops nor slows a training.

The driver is the only writer. What it logs goes to a queue, and one daemon thread writes the queue to the store, so no
call but opening waits for the store. While the store does not answer, the thread keeps trying at growing intervals;
beyond a bound the oldest entries are dropped, and closing says how many were lost. An entry that the store refuses
although it answers is left out. Every write may be repeated: a run is found again by its key, points by their time.

MLflow is imported when a store is opened (2 to 4 s). `MlflowClient` is used and never the fluent functions, whose
active run is one for the whole process.
"""

import itertools
import json
import math
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import raypixel
from raypixel.errors import RaypixelError

Status = Literal["FINISHED", "FAILED", "KILLED"]

_KEY_TAG = "raypixel.key"
_MAX_METRICS = 1000  # MLflow's limits of one log_batch
_MAX_PARAMS = 100
_MAX_PARAM_LENGTH = 6000
_MAX_TAG_LENGTH = 8000
_MAX_DIGEST_LENGTH = 36

_GATHER_S = 1.0  # how long metrics gather before they are written together
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 60.0
_MAX_REFUSALS = 4  # of one entry by a store that answers

# Set where the user has not set them. The writer repeats what fails, so one request tries once.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class TrackingError(RaypixelError):
    """Report an MLflow store that cannot be opened."""


class Tracker:
    """An MLflow experiment: opens runs and writes what they log."""

    def __init__(
        self,
        experiment: str,
        *,
        uri: str | None = None,
        warn: Callable[[str], None],
        max_queued: int = 20_000,
    ) -> None:
        """Open the store and the experiment; both are created where they are missing.

        Args:
            experiment: Name of the MLflow experiment.
            uri: MLflow tracking URI; the environment's MLFLOW_TRACKING_URI by default, else `mlflow.db` in the working
                folder, with artifacts in `mlartifacts`.
            warn: Shows a line to the user; called from the writer's thread too.
            max_queued: Entries that may wait for a store which does not answer.

        Raises:
            TrackingError: The store cannot be opened.
        """
        given = uri or os.environ.get("MLFLOW_TRACKING_URI")
        where = "tracking URI" if uri else "MLFLOW_TRACKING_URI"
        self._folder = Path.cwd()
        self._uri, self._database = _locate(given or "sqlite:///mlflow.db", self._folder)
        artifacts = None  # a server chooses
        if not self._uri.startswith(("http://", "https://", "databricks")):
            beside = self._folder if self._database is None else self._database.parent
            artifacts = beside / "mlartifacts"
        self._client, self._experiment_id = _open(
            self._uri, experiment, where=where, database=self._database, artifacts=artifacts
        )
        self._tags = _origin_tags()
        self._writer = _Writer(
            self._client,
            # known since the start, so whether it is answered tells whether the store answers
            probe=lambda: self._client.get_experiment(self._experiment_id),
            warn=warn,
            store=_redact(self._uri),
            max_queued=max_queued,
        )

    def start(
        self,
        name: str,
        *,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        parent: "TrackedRun | None" = None,
        key: str | None = None,
    ) -> "TrackedRun":
        """Open a run without waiting for the store.

        Args:
            name: Shown in MLflow.
            params: Parameters; nested mappings are flattened to `model.hidden_size`.
            tags: Tags, beside those for the versions of the code.
            parent: The run that this one belongs to, such as its sweep's.
            key: What identifies the run. A run of this experiment with the same key is opened again; parameters
                that differ keep their first value there and the new one is told in a tag.

        Raises:
            ValueError: The key holds a quotation mark.
        """
        if key is not None and "'" in key:
            raise ValueError(f"key must not hold a quotation mark, got {key!r}")
        run = TrackedRun(self._writer, name)
        # a run without a key gets one too: a creation whose answer was lost is not repeated
        opening = _Opening(
            run=run,
            experiment_id=self._experiment_id,
            key=key or uuid.uuid4().hex,
            params={k: v[:_MAX_PARAM_LENGTH] for k, v in _flatten(params)},
            tags=self._tags | dict(tags),
            parent=parent,
            time_ms=_now_ms(),
        )
        self._writer.put(_Entry(run, opening, is_vital=True))
        return run

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything logged so far is written or given up; return whether it is."""
        return self._writer.flush(timeout_s)

    def close(self, timeout_s: float = 60.0) -> int:
        """Write what is left for at most a time, warn if something was lost, and return the number of entries lost."""
        return self._writer.close(timeout_s)

    def describe(self) -> str:
        """Return where the experiment is and the command or address that opens it."""
        uri = _redact(self._uri)
        if uri.startswith(("http://", "https://")):
            return f"{uri.rstrip('/')}/#/experiments/{self._experiment_id}"
        # plain `mlflow ui` opens mlflow.db in its folder, but an old ./mlruns wins over it
        is_default = self._database == self._folder / "mlflow.db"
        if is_default and not (self._folder / "mlruns").exists():
            return f"{self._database}, open it with `{_mlflow_command()} ui` in {self._folder}"
        return f"{uri}, open it with `{_mlflow_command()} ui --backend-store-uri '{uri}'`"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class TrackedRun:
    """One MLflow run; every method returns at once and may be called from any thread.

    Attributes:
        name: The name it was started with.
        run_id: MLflow's id, None until the store has given one; `Tracker.flush` waits for it.
    """

    def __init__(self, writer: "_Writer", name: str) -> None:
        self.name = name
        self.run_id: str | None = None
        self._writer = writer
        self._is_finished = False

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Log numbers by name; one that is not finite is stored as NaN."""
        now = _now_ms()
        # MLflow stores an infinity as 1.8e308, which no chart can show
        finite = {k: v if math.isfinite(v) else math.nan for k, v in metrics.items()}
        points = [(k, float(v), now, step) for k, v in finite.items()]
        for start in range(0, len(points), _MAX_METRICS):
            self._writer.put(_Entry(self, None, tuple(points[start : start + _MAX_METRICS])))

    def log_dataset(
        self, name: str, digest: str, *, source: str, num_images: int, context: str
    ) -> None:
        """Log a data set that the run uses.

        Args:
            name: Of the data set.
            digest: Checksum of its contents; MLflow keeps 36 characters.
            source: Where it is, a path or URI.
            num_images: Images of the split.
            context: What it is used for: "training", "validation" or "test".
        """

        def write(client: Any, run_id: str) -> None:
            from mlflow.entities import Dataset, DatasetInput, InputTag

            dataset = Dataset(
                name=name,
                digest=digest[:_MAX_DIGEST_LENGTH],
                source_type="local",
                source=json.dumps({"uri": source}),
                profile=json.dumps({"num_rows": num_images}),
            )
            tag = InputTag("mlflow.data.context", context)
            client.log_inputs(run_id, datasets=[DatasetInput(dataset, [tag])])

        self._writer.put(_Entry(self, write))

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file or a directory to the run.

        Args:
            path: What to copy, under its own name. It is read later: it must stay as it is until `Tracker.flush` or
                `close` returns. A link is followed now.
            folder: Of the run's artifacts; their root by default.

        Raises:
            ValueError: There is nothing at the path.
        """
        if not path.exists():
            raise ValueError(f"path must be a file or a directory, got {path}")
        name, target = path.name, path.resolve()

        def write(client: Any, run_id: str) -> None:
            if target.is_dir():
                client.log_artifacts(run_id, str(target), f"{folder}/{name}" if folder else name)
            else:
                client.log_artifact(run_id, str(target), folder)

        self._writer.put(_Entry(self, write))

    def tag(self, key: str, value: str) -> None:
        """Set a tag."""

        def write(client: Any, run_id: str) -> None:
            client.set_tag(run_id, key, value[:_MAX_TAG_LENGTH])

        self._writer.put(_Entry(self, write))

    def finish(self, status: Status) -> None:
        """End the run; calling it again changes nothing."""
        if self._is_finished:
            return
        self._is_finished = True
        now = _now_ms()

        def write(client: Any, run_id: str) -> None:
            client.set_terminated(run_id, status, now)

        self._writer.put(_Entry(self, write, is_vital=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if kind is None:
            self.finish("FINISHED")
        else:
            self.finish("FAILED" if issubclass(kind, Exception) else "KILLED")


@dataclass(frozen=True)
class _Entry:
    """One thing to write: a call, or points of metrics, which are written together.

    Attributes:
        run: The run it belongs to.
        call: Takes the client and the run's id; None for metrics.
        points: (name, value, time in ms, step) of each metric.
        is_vital: Never dropped, since the rest of the run is worth little without it.
    """

    run: TrackedRun
    call: Callable[[Any, str], None] | None
    points: tuple[tuple[str, float, int, int], ...] = ()
    is_vital: bool = False

    @property
    def is_orphan(self) -> bool:
        """Whether the store did not take the run itself, which was written before."""
        return self.run.run_id is None and not isinstance(self.call, _Opening)


@dataclass(frozen=True)
class _Opening:
    """Finds or creates a run; after a failure half way it goes on where it stopped."""

    run: TrackedRun
    experiment_id: str
    key: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    parent: TrackedRun | None
    time_ms: int

    def __call__(self, client: Any, _: str) -> None:
        from mlflow.entities import Param, RunTag

        tags = {_KEY_TAG: self.key} | {k: str(v)[:_MAX_TAG_LENGTH] for k, v in self.tags.items()}
        if self.parent is not None and self.parent.run_id is not None:
            tags["mlflow.parentRunId"] = self.parent.run_id
        known: Mapping[str, str] = {}
        same_key = f"tags.`{_KEY_TAG}` = '{self.key}'"
        found = client.search_runs([self.experiment_id], filter_string=same_key, max_results=1)
        if found:
            opened, known = found[0], found[0].data.params
            client.update_run(opened.info.run_id, status="RUNNING")
        else:
            opened = client.create_run(self.experiment_id, self.time_ms, tags, self.run.name)
        changed = [
            f"{name}: {known[name]} -> {value}"
            for name, value in self.params.items()
            if known.get(name, value) != value
        ]
        if changed:  # MLflow keeps a parameter's first value
            tags["raypixel.changed_params"] = ", ".join(changed)[:_MAX_TAG_LENGTH]
        if found:
            client.log_batch(opened.info.run_id, tags=[RunTag(k, v) for k, v in tags.items()])
        new = [Param(name, value) for name, value in self.params.items() if name not in known]
        for start in range(0, len(new), _MAX_PARAMS):
            client.log_batch(opened.info.run_id, params=new[start : start + _MAX_PARAMS])
        self.run.run_id = opened.info.run_id


class _Writer:
    """A queue of entries and the thread that writes them, in order within each run."""

    def __init__(
        self,
        client: Any,
        *,
        probe: Callable[[], object],
        warn: Callable[[str], None],
        store: str,
        max_queued: int,
    ) -> None:
        self._client = client
        self._probe = probe
        self._warn = warn
        self._store = store
        self._max_queued = max_queued
        self._changed = threading.Condition()  # guards everything below
        self._queue: deque[_Entry] = deque()
        self._num_in_flight = 0
        self._num_lost = 0
        self._num_waiting = 0  # threads in `flush` or `close`: write now, do not gather
        self._is_closed = False
        self._warned: set[str] = set()
        self._is_abandoned = threading.Event()  # what is not written yet never will be
        self._thread = threading.Thread(target=self._work, name="raypixel-mlflow", daemon=True)
        self._thread.start()

    def put(self, entry: _Entry) -> None:
        with self._changed:
            if self._is_closed:
                raise ValueError("the tracker must be open, got a call after close")
            self._queue.append(entry)
            if len(self._queue) > self._max_queued:
                self._drop_oldest()
            if len(self._queue) == 1:  # otherwise the thread is awake, or gathers
                self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        with self._changed:
            self._num_waiting += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(
                    lambda: not self._queue and not self._num_in_flight, timeout_s
                )
            finally:
                self._num_waiting -= 1

    def close(self, timeout_s: float) -> int:
        with self._changed:
            is_first = not self._is_closed
            self._is_closed = True
        if is_first:
            is_written = self.flush(timeout_s)
            self._is_abandoned.set()
            with self._changed:
                self._num_lost += self._num_in_flight + len(self._queue)
                self._queue.clear()
                self._changed.notify_all()
            if is_written:
                self._thread.join(timeout=1.0)
            if self._num_lost:
                entries = "1 entry was" if self._num_lost == 1 else f"{self._num_lost} entries were"
                self._warn(f"MLflow at {self._store}: {entries} not written")
        return self._num_lost

    def _drop_oldest(self) -> None:
        for index, entry in enumerate(self._queue):
            if not entry.is_vital:
                del self._queue[index]
                self._num_lost += 1
                return

    def _work(self) -> None:
        while entries := self._take():
            self._write(entries)
            with self._changed:
                self._num_in_flight = 0
                self._changed.notify_all()

    def _take(self) -> list[_Entry]:
        """Wait for entries, and return those to write together; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._is_abandoned.is_set())
            self._changed.wait_for(lambda: self._num_waiting or not self._queue, _GATHER_S)
            if not self._queue:
                return []
            first = self._queue.popleft()
            entries = [first] if first.call else [first, *self._take_metrics(first)]
            self._num_in_flight = len(entries)
            return entries

    def _take_metrics(self, first: _Entry) -> list[_Entry]:
        """Take the metrics of a run that come before any other entry of it."""
        taken: list[_Entry] = []
        left: deque[_Entry] = deque()
        num_points, is_open = len(first.points), True
        for entry in self._queue:
            if is_open and entry.run is first.run:
                num_points += len(entry.points)
                is_open = entry.call is None and num_points <= _MAX_METRICS
                (taken if is_open else left).append(entry)
            else:
                left.append(entry)
        self._queue = left
        return taken

    def _write(self, entries: list[_Entry]) -> None:
        wait_s, num_refusals = _FIRST_WAIT_S, 0
        while (error := self._try(entries)) is not None:
            if self._is_answering():
                num_refusals += 1
                if num_refusals == _MAX_REFUSALS or entries[0].is_orphan:
                    self._warn_once("refused", f"does not take an entry ({_reason(error)})")
                    with self._changed:
                        self._num_lost += len(entries)
                    return
            else:
                text = f"does not answer ({_reason(error)}); going on, trying again"
                self._warn_once("lost", text)
            if self._is_over_after(wait_s):
                return  # `close` has counted these
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    def _try(self, entries: list[_Entry]) -> Exception | None:
        from mlflow.entities import Metric

        first = entries[0]
        run_id = first.run.run_id or ""  # only an opening succeeds without
        try:
            if first.call is not None:
                first.call(self._client, run_id)
            else:
                points = itertools.chain.from_iterable(entry.points for entry in entries)
                self._client.log_batch(run_id, [Metric(*point) for point in points])
        except Exception as error:  # a store, its driver or a plugin may raise anything
            return error
        return None

    def _is_answering(self) -> bool:
        try:
            self._probe()
        except Exception:  # as above
            return False
        return True

    def _is_over_after(self, wait_s: float) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._num_waiting, wait_s)
        return self._is_abandoned.wait(_FIRST_WAIT_S)

    def _warn_once(self, kind: str, text: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            self._warn(f"MLflow at {self._store} {text}")


def _open(
    uri: str, experiment: str, *, where: str, database: Path | None, artifacts: Path | None
) -> tuple[Any, str]:
    """Return a client and the experiment's id.

    The database and the experiment exist afterwards: two writers that create them at once fail.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        if database is not None:
            # also a quick test: MLflow tries for 100 s to open a file that cannot be opened
            database.parent.mkdir(parents=True, exist_ok=True)
            _use_write_ahead_log(database)
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            try:
                location = None if artifacts is None else artifacts.as_uri()
                return client, client.create_experiment(experiment, location)
            except MlflowException:
                found = client.get_experiment_by_name(experiment)  # somebody was faster
                if found is None:
                    raise
    except Exception as error:  # a store, its driver or a plugin may raise anything
        rule = f"{where} must name an MLflow store that opens"
        raise TrackingError(f"{rule}, got {_redact(uri)!r}: {_reason(error)}") from None
    if found.lifecycle_stage == "deleted":
        remedy = f"`{_mlflow_command()} experiments restore -x {found.experiment_id}`"
        raise TrackingError(
            f"experiment {experiment!r} is deleted in {_redact(uri)}: take another name or run {remedy}"
        )
    return client, found.experiment_id


def _use_write_ahead_log(database: Path) -> None:
    """Let readers not wait for the writer, nor it for them; the file remembers it."""
    connection = sqlite3.connect(database, timeout=20.0)
    try:
        connection.execute("PRAGMA journal_mode=WAL").fetchall()
    finally:
        connection.close()


def _locate(uri: str, folder: Path) -> tuple[str, Path | None]:
    """Return the URI with an absolute path, and the path where it is an SQLite file."""
    if not uri.startswith("sqlite:///") or uri == "sqlite:///:memory:":
        return uri, None
    name, mark, query = uri.removeprefix("sqlite:///").partition("?")
    path = folder / name
    return f"sqlite:///{path}{mark}{query}", path


def _origin_tags() -> dict[str, str]:
    """Return tags that name the code, and nothing of the user."""
    tags = {"raypixel.version": raypixel.__version__}
    for package in ("torch", "ray"):
        try:
            tags[f"{package}.version"] = version(package)
        except PackageNotFoundError:
            continue
    commit = _git_commit(Path(raypixel.__file__))
    if commit is not None:
        tags["raypixel.git_commit"] = commit
        tags["mlflow.source.git.commit"] = commit.removesuffix("-dirty")
    return tags


def _git_commit(source: Path) -> str | None:
    """Return the commit of a tracked file, followed by `-dirty` where its repository differs; else None."""
    git = ["git", "-C", str(source.parent)]
    describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        # an installed copy can lie inside somebody else's repository, but untracked
        for command in (["ls-files", "--error-unmatch", source.name], describe):
            done = subprocess.run(
                [*git, *command], capture_output=True, text=True, timeout=10, check=True
            )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _flatten(params: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            yield f"{prefix}{name}", text


def _mlflow_command() -> str:
    """Return what a shell must be given to run this environment's `mlflow`."""
    command = Path(sys.executable).with_name("mlflow")
    found = shutil.which("mlflow")
    if not command.exists() or (found and Path(found).resolve() == command.resolve()):
        return "mlflow"
    return os.path.relpath(command) if command.is_relative_to(Path.cwd()) else str(command)


def _reason(error: Exception) -> str:
    """Return an error's text in one short line."""
    text = _redact(" ".join(str(error).split()))
    if "Read timed out" in text or "ConnectTimeout" in text:
        return "no answer in time"
    system = re.search(r"\[Errno -?\d+\] ([^'\")]+)", text)
    if system:
        return system[1].strip(" :")
    text = text or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}..."


def _redact(text: str) -> str:
    """Hide user names and passwords of URIs."""
    return re.sub(r"://[^/@\s]+@", "://***@", text)


def _now_ms() -> int:
    return int(time.time() * 1000)
