"""What MLflow is told of a folder, beside its events, and how a run is opened there so that telling it twice changes nothing."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raypixel.config import load_yaml
from raypixel.runs.run import Run
from raypixel.runs.tracking.store import Store

_KEY_TAG = "raypixel.key"
_MAX_PARAMS = 100  # MLflow's limits
_MAX_PARAM_LENGTH = 6000
_MAX_TAG_LENGTH = 8000
_MAX_DIGEST_LENGTH = 36


@dataclass(frozen=True)
class Record:
    """A run of MLflow's as the folder of a training or a sweep describes it.

    Attributes:
        name: Shown in MLflow.
        key: What identifies it: a run of the experiment with the same key is this one.
        params: Parameters; nested mappings are flattened to `model.hidden_size`.
        tags: Tags.
        data_sets: Name, checksum, source, number of images and use of each.
        files: What to copy: a file or a directory, and the name of the folder that a directory's files go to.
    """

    name: str
    key: str
    params: Mapping[str, object]
    tags: Mapping[str, str]
    data_sets: tuple[tuple[str, str, str, int, str], ...] = ()
    files: tuple[tuple[Path, str | None], ...] = field(default=())


def record_of(run: Run, name: str | None = None) -> Record:
    """Read the folder of a run, under another name than its folder's if one is given.

    Raises:
        CheckpointError: run.json cannot be read.
    """
    identity = run.identity()
    params = load_yaml(run.folder / "experiment.yaml")
    data = params["data"]["name"]
    uses = {"train": "training", "val": "validation"}
    best = run.folder / "checkpoints" / "best"
    files = [run.folder / name for name in ("experiment.yaml", "metrics.jsonl", "samples.png")]
    return Record(
        name or run.name,
        identity["id"],
        params,
        {"raypixel.folder": str(run.home), **identity.get("code", {})},
        tuple(
            (f"{data}-{split}", identity["data"], identity["data_source"], size, uses[split])
            for split, size in identity.get("num_images", {}).items()
        ),
        (
            *(((best.resolve(), "checkpoint"),) if best.exists() else ()),
            *((path, None) for path in files if path.exists()),
        ),
    )


def open_record(store: Store, record: Record, parent_id: str | None) -> str:
    """Find or make the run of a record, with its parameters, tags and data sets, and return MLflow's id of it."""
    from mlflow.entities import Param, RunTag

    client = store.client
    tags = {_KEY_TAG: record.key} | {k: v[:_MAX_TAG_LENGTH] for k, v in record.tags.items()}
    if parent_id is not None:
        tags["mlflow.parentRunId"] = parent_id
    params = {k: v[:_MAX_PARAM_LENGTH] for k, v in _flatten(record.params)}
    same_key = f"tags.`{_KEY_TAG}` = '{record.key}'"
    found = client.search_runs([store.experiment_id], filter_string=same_key, max_results=1)
    known: Mapping[str, str] = found[0].data.params if found else {}
    if found:
        run_id = str(found[0].info.run_id)
        client.update_run(run_id, status="RUNNING")
    else:
        now = int(time.time() * 1000)
        run_id = str(client.create_run(store.experiment_id, now, tags, record.name).info.run_id)
    changed = [
        f"{name}: {known[name]} -> {value}"
        for name, value in params.items()
        if known.get(name, value) != value
    ]
    if changed:  # MLflow keeps a parameter's first value
        tags["raypixel.changed_params"] = ", ".join(changed)[:_MAX_TAG_LENGTH]
    if found:
        client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items()])
    new = [Param(name, value) for name, value in params.items() if name not in known]
    for start in range(0, len(new), _MAX_PARAMS):
        client.log_batch(run_id, params=new[start : start + _MAX_PARAMS])
    _log_data_sets(client, run_id, record)
    return run_id


def log_file(client: Any, run_id: str, path: Path, folder: str | None) -> None:
    """Copy a file, or a directory's files into a folder, to the artifacts of a run."""
    if not path.is_dir():
        client.log_artifact(run_id, str(path))
        return
    client.log_artifacts(run_id, str(path), f"{folder}/{path.name}" if folder else path.name)


def set_tags(client: Any, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags."""
    for name, value in tags.items():
        client.set_tag(run_id, name, value[:_MAX_TAG_LENGTH])


def _log_data_sets(client: Any, run_id: str, record: Record) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = [
        DatasetInput(
            Dataset(
                name=name,
                digest=digest[:_MAX_DIGEST_LENGTH],  # so much MLflow keeps
                source_type="local",
                source=json.dumps({"uri": source}),
                profile=json.dumps({"num_rows": num_images}),
            ),
            [InputTag("mlflow.data.context", use)],
        )
        for name, digest, source, num_images, use in record.data_sets
    ]
    if inputs:
        client.log_inputs(run_id, datasets=inputs)


def _flatten(params: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            yield f"{prefix}{name}", text
