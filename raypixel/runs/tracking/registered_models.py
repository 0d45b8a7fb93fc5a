"""MLflow's registry of models: a checkpoint directory under a name, a version and aliases. Nothing is pickled.

A version's source is the checkpoint as an artifact of a run, file by file; its checksums are checked when it is read.
"""

import os
import re
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypixel.checkpoint import Checkpoint, read_checkpoint
from raypixel.errors import CheckpointError
from raypixel.runs.origin import origin_of_code
from raypixel.runs.tracking.store import TrackingError, open_store, reason

_FILES = (
    "model.safetensors",
    "training.safetensors",
    "config.yaml",
    "state.json",
    "checkpoint.json",
)
_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))")
# what MLflow takes; it looks only when the version is already made
_NAME = re.compile(r"[^/:@]+")
_ALIAS = re.compile(r"(?!(?i:latest|v[0-9]+)$)[\w-]{1,255}")


@dataclass(frozen=True)
class Registered:
    """A version of a registered model.

    Attributes:
        name: Of the model.
        version: Its number.
        uri: What `raypixel serve` takes.
        store: The MLflow store.
    """

    name: str
    version: int
    uri: str
    store: str


def register_model(
    checkpoint: Checkpoint, name: str, *, alias: str | None = None, uri: str | None = None
) -> Registered:
    """Register a checkpoint as the next version of a model.

    Args:
        checkpoint: What to register.
        name: Of the model; made where it is missing.
        alias: Points to this version from now on.
        uri: MLflow tracking URI; MLFLOW_TRACKING_URI or `mlflow.db` in the working folder by default.

    Raises:
        CheckpointError: Its weights do not fit its config, or are not finite.
        TrackingError: The name or the alias cannot be one, or the store cannot be opened or refuses.
    """
    checkpoint.load_model()  # nobody finds out only when it is served
    if not _NAME.fullmatch(name):
        raise TrackingError(f"model name must have no '/', ':' or '@', got {name!r}")
    if alias is not None and not _ALIAS.fullmatch(alias):
        rule = "must be letters, digits, '_' and '-', and neither 'latest' nor a version like 'v1'"
        raise TrackingError(f"alias {rule}, got {alias!r}")
    opened = open_store(uri=uri)
    client, store = opened.client, opened.shown
    from mlflow.exceptions import MlflowException

    try:
        run = client.create_run(
            opened.experiment_id, run_name=f"register {name}", tags=origin_of_code()
        )
        client.log_artifacts(run.info.run_id, str(checkpoint.path), "checkpoint")
        client.set_terminated(run.info.run_id)
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{run.info.artifact_uri}/checkpoint"
        made = client.create_model_version(name, source, run_id=run.info.run_id)
        if alias is not None:
            client.set_registered_model_alias(name, alias, made.version)
    except (MlflowException, OSError) as error:
        raise TrackingError(f"{store}: {name!r} is not registered: {reason(error)}") from None
    shown = f"models:/{name}@{alias}" if alias else f"models:/{name}/{made.version}"
    return Registered(name, int(made.version), shown, store)


def fetch_model(model_uri: str, folder: Path, *, uri: str | None = None) -> Path:
    """Download a registered checkpoint, if it is not in the folder yet, and return its path.

    Args:
        model_uri: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        folder: Where downloads are kept, one folder for each version; made for this user alone.
        uri: MLflow tracking URI, see `register_model`.

    Raises:
        TrackingError: There is no such model, or the store does not answer.
        CheckpointError: What was registered is no checkpoint of raypixel's, or is damaged.
    """
    parts = _URI.fullmatch(model_uri)
    if parts is None:
        rule = "must be models:/NAME@ALIAS or models:/NAME/VERSION"
        raise TrackingError(f"model {rule}, got {model_uri!r}")
    opened = open_store(uri=uri)
    client, store = opened.client, opened.shown
    from mlflow.exceptions import MlflowException

    try:
        if parts["alias"]:
            found = client.get_model_version_by_alias(parts["name"], parts["alias"])
        else:
            found = client.get_model_version(parts["name"], parts["version"])
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder.stat().st_uid != os.getuid():
            raise TrackingError(f"{folder}: must belong to this user")
        # a run's id tells the versions of different stores apart
        path = folder / f"{parts['name']}-{found.version}-{found.run_id}"
        if not path.exists():
            _download(client, found.run_id, path)
    except (MlflowException, OSError) as error:
        raise TrackingError(f"{store}: {model_uri} is not there: {reason(error)}") from None
    return read_checkpoint(path).path


def _download(client: Any, run_id: str, path: Path) -> None:
    """Download the files of a checkpoint and no others; the folder appears complete."""
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    target, received = temporary / "checkpoint", temporary / "received"
    for folder in (temporary, target, received):
        folder.mkdir()
    try:
        for name in _FILES:
            # of a store on this machine MLflow returns the artifact itself, uncopied
            found = client.download_artifacts(run_id, f"checkpoint/{name}", str(received))
            shutil.copyfile(found, target / name)
        read_checkpoint(target)
        try:
            target.rename(path)
        except OSError:
            if not path.exists():  # else another process was faster
                raise
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(str(target), str(path))) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
