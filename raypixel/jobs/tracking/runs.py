"""A run, and the entries that open it and log to it."""

import json
import math
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from raypixel.jobs.tracking.writer import MAX_METRICS, Entry, Writer

Status = Literal["FINISHED", "FAILED", "KILLED"]

_KEY_TAG = "raypixel.key"
_MAX_PARAMS = 100  # MLflow's limits
_MAX_PARAM_LENGTH = 6000
_MAX_TAG_LENGTH = 8000
_MAX_DIGEST_LENGTH = 36


class TrackedRun:
    """One MLflow run; every method returns at once and may be called from any thread.

    Attributes:
        name: The name it was started with.
        run_id: MLflow's id, None until the store has given one; `Tracker.flush` waits for it.
    """

    def __init__(self, writer: Writer, name: str) -> None:
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
        for start in range(0, len(points), MAX_METRICS):
            self._writer.put(Entry(self, None, tuple(points[start : start + MAX_METRICS])))

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

        self._writer.put(Entry(self, write))

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

        self._writer.put(Entry(self, write))

    def tag(self, key: str, value: str) -> None:
        """Set a tag."""

        def write(client: Any, run_id: str) -> None:
            client.set_tag(run_id, key, value[:_MAX_TAG_LENGTH])

        self._writer.put(Entry(self, write))

    def finish(self, status: Status) -> None:
        """End the run; calling it again changes nothing."""
        if self._is_finished:
            return
        self._is_finished = True
        now = _now_ms()

        def write(client: Any, run_id: str) -> None:
            client.set_terminated(run_id, status, now)

        self._writer.put(Entry(self, write, is_vital=True))

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


def open_run(
    writer: Writer,
    name: str,
    *,
    experiment_id: str,
    key: str | None,
    params: Mapping[str, object],
    tags: Mapping[str, str],
    parent: TrackedRun | None,
) -> TrackedRun:
    """Return a run whose opening is queued; see `Tracker.start`."""
    if key is not None and "'" in key:
        raise ValueError(f"key must not hold a quotation mark, got {key!r}")
    run = TrackedRun(writer, name)
    # a run without a key gets one too: a creation whose answer was lost is not repeated
    opening = _Opening(
        run=run,
        experiment_id=experiment_id,
        key=key or uuid.uuid4().hex,
        params={k: v[:_MAX_PARAM_LENGTH] for k, v in _flatten(params)},
        tags=tags,
        parent=parent,
        time_ms=_now_ms(),
    )
    writer.put(Entry(run, opening, is_vital=True, is_opening=True))
    return run


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


def _flatten(params: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            yield f"{prefix}{name}", text


def _now_ms() -> int:
    return int(time.time() * 1000)
