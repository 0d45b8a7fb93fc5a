"""What `raypixel serve` is told, put together and checked before anything starts."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raypixel import zoo
from raypixel.config import parse
from raypixel.errors import ConfigError, ServingError
from raypixel.evaluation import choose_device
from raypixel.runs import find_checkpoint
from raypixel.serving.serve_config import IMPORT_PATH
from raypixel.serving.settings import Keys, Settings, read_keys, require_keys
from raypixel.storage import cache_folder

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8000
_NAMED = ("models:/", zoo.PREFIX)
"""Beginnings of checkpoints that are no folders."""


@dataclass(frozen=True)
class Launch:
    """A service to be started.

    Attributes:
        settings: What is served.
        host: Address to listen on.
        port: Port to listen on.
        options: Options of Ray Serve's deployment.
        http_options: More of Ray Serve's HTTP options.
    """

    settings: Settings
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    options: Mapping[str, Any] = field(default_factory=dict)
    http_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The address to ask, from this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)  # noqa: S104
        return f"http://{host}:{self.port}"


def parse_models(texts: tuple[str, ...], checkpoint: str | None) -> dict[str, str]:
    """Return name to checkpoint for `NAME=CHECKPOINT` texts, and one that is named after its folder; without any, the zoo.

    Raises:
        ConfigError: A text is not of this form, a name stands twice, or there is no model.
    """
    models: dict[str, str] = {}
    if checkpoint is None and not texts:
        models = {name: f"{zoo.PREFIX}{name}" for name in zoo.zoo_names()}
    if checkpoint is not None:
        name = checkpoint.removeprefix("models:/").removeprefix(zoo.PREFIX)
        name = name.partition("@")[0].rstrip("/")
        models[name if checkpoint.startswith(_NAMED) else Path(name).resolve().name] = checkpoint
    for text in texts:
        name, equals, source = text.partition("=")
        if not equals or not name or not source:
            raise ConfigError(f"--model must be NAME=CHECKPOINT, got {text!r}")
        if name in models:
            raise ConfigError(f"--model must name each model once, got {name!r} twice")
        models[name] = source
    if not models:
        raise ConfigError("a CHECKPOINT, --model or --config must be given, got none of them")
    return models


def from_config(mapping: dict[str, Any], *, where: str) -> Launch:
    """Return the service that a checked config file describes.

    Raises:
        ConfigError: It describes anything but one application of raypixel.
    """
    applications = mapping["applications"]
    paths = [application.get("import_path") for application in applications]
    if paths != [IMPORT_PATH]:
        got = ", ".join(map(str, paths)) or "none"
        raise ConfigError(
            f"{where}: applications must be one of import_path {IMPORT_PATH}, got {got}: "
            "`serve deploy` takes others"
        )
    http = dict(mapping.get("http_options") or {})
    host, port = http.pop("host", "0.0.0.0"), http.pop("port", DEFAULT_PORT)  # noqa: S104 (Ray's default)
    deployments = applications[0].get("deployments") or [{}]
    options = {key: value for key, value in deployments[0].items() if key != "name"}
    settings = parse(Settings, applications[0].get("args", {}), where=f"{where}: args")
    return Launch(settings, host, port, options, http)


def check(launch: Launch, *, is_local: bool, environment: Mapping[str, str]) -> Keys:
    """Find out early what would make replicas fail: keys, the device, checkpoints, the port.

    Args:
        launch: What is to be started.
        is_local: It will run on this machine; otherwise files may lie elsewhere.
        environment: Where keys may stand.

    Returns:
        The keys that are known here.

    Raises:
        RaypixelError: Something is missing, damaged or taken.
    """
    file = launch.settings.api_keys_file
    if not is_local and file is not None and not file.exists():
        file = None  # it is where the replicas are
    keys = read_keys(file, environment)
    if is_local or file is not None:
        require_keys(keys, launch.host)
    if not is_local:
        return keys
    choose_device(launch.settings.device)
    for source in launch.settings.models.values():
        if source.startswith("models:/"):
            find_checkpoint(fetch_registered(source)).load_model()  # the replicas find it there
        else:
            find_checkpoint(source).load_model()
    _check_port(launch.host, launch.port)
    return keys


def fetch_registered(uri: str) -> Path:
    """Download a model of MLflow's registry, once for each version, and return its folder."""
    from raypixel.runs.tracking.registered_models import fetch_model

    return fetch_model(uri, cache_folder() / "models")


def absolute(launch: Launch) -> Launch:
    """Return a launch whose paths do not depend on the working folder: replicas have another one."""
    settings, file = launch.settings, launch.settings.api_keys_file
    models = {
        name: source if source.startswith((*_NAMED, "s3:/")) else str(Path(source).absolute())
        for name, source in settings.models.items()
    }
    changes = {"models": models, "api_keys_file": None if file is None else file.absolute()}
    return replace(launch, settings=settings.model_copy(update=changes))


def local_options(num_replicas: int) -> dict[str, Any]:
    """Return options for replicas that share this machine: each gets its part of the cores."""
    return {
        "num_replicas": num_replicas,
        "ray_actor_options": {"num_cpus": max(1, (os.cpu_count() or 1) // num_replicas)},
    }


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host.strip("[]"), port))
    except OSError as error:
        raise ServingError(
            f"port {port} of {host} must be free, got {error.strerror}: choose another with --port"
        ) from None
