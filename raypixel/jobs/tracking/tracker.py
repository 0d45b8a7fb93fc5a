"""An experiment of a store: opens runs and closes what writes them."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from raypixel.jobs.tracking.origin import origin_tags
from raypixel.jobs.tracking.runs import TrackedRun, open_run
from raypixel.jobs.tracking.store import locate, mlflow_command, open_store, redact
from raypixel.jobs.tracking.writer import Writer


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
        self._uri, self._database = locate(given or "sqlite:///mlflow.db", self._folder)
        artifacts = None  # a server chooses
        if not self._uri.startswith(("http://", "https://", "databricks")):
            beside = self._folder if self._database is None else self._database.parent
            artifacts = beside / "mlartifacts"
        self._client, self._experiment_id = open_store(
            self._uri, experiment, where=where, database=self._database, artifacts=artifacts
        )
        self._tags = origin_tags()
        self._writer = Writer(
            self._client,
            # known since the start, so whether it is answered tells whether the store answers
            probe=lambda: self._client.get_experiment(self._experiment_id),
            warn=warn,
            store=redact(self._uri),
            max_queued=max_queued,
        )

    def start(
        self,
        name: str,
        *,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        parent: TrackedRun | None = None,
        key: str | None = None,
    ) -> TrackedRun:
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
        return open_run(
            self._writer,
            name,
            experiment_id=self._experiment_id,
            key=key,
            params=params,
            tags=self._tags | dict(tags),
            parent=parent,
        )

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything logged so far is written or given up; return whether it is."""
        return self._writer.flush(timeout_s)

    def close(self, timeout_s: float = 60.0) -> int:
        """Write what is left, warn if something was lost, and return the number of entries lost.

        A store that has taken nothing for `timeout_s` is given up; one that is merely slow is waited for.
        """
        return self._writer.close(timeout_s)

    def describe(self) -> str:
        """Return where the experiment is and the command or address that opens it."""
        uri = redact(self._uri)
        if uri.startswith(("http://", "https://")):
            return f"{uri.rstrip('/')}/#/experiments/{self._experiment_id}"
        # plain `mlflow ui` opens mlflow.db in its folder, but an old ./mlruns wins over it
        is_default = self._database == self._folder / "mlflow.db"
        if is_default and not (self._folder / "mlruns").exists():
            return f"{self._database}, open it with `{mlflow_command()} ui` in {self._folder}"
        return f"{uri}, open it with `{mlflow_command()} ui --backend-store-uri '{uri}'`"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
