"""The Ray Serve deployment: each replica is a process with its own models and its own HTTP application.

`raypixel serve` starts it on this machine or a cluster; `serve deploy cluster/serve.yaml` builds it from a file.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import ray
from ray import serve
from ray.serve.config import HTTPOptions
from ray.util.metrics import Gauge
from starlette.types import ASGIApp

from raypixel.config import parse
from raypixel.errors import ServingError
from raypixel.serving.autoscaling import METRIC
from raypixel.serving.http import create_app
from raypixel.serving.launch import Launch, fetch_registered
from raypixel.serving.metrics import metric_name
from raypixel.serving.replica import Replica
from raypixel.serving.serve_config import DEPLOYMENT
from raypixel.serving.settings import Keys, Settings, read_keys, require_keys
from raypixel.serving.stats import GAUGES
from raypixel.train import ray_private

APPLICATION = "raypixel"
_METRICS_PERIOD_S = 2.0
_SECONDS_TO_ANSWER = 5.0
# the engine queues, bounded by images; Ray need not
_MAX_ONGOING = 10_000


@serve.deployment(
    name=DEPLOYMENT,
    max_ongoing_requests=_MAX_ONGOING,
    graceful_shutdown_timeout_s=330.0,
    graceful_shutdown_wait_loop_s=0.5,
    health_check_period_s=5.0,
)
@serve.ingress()
class Endpoint:
    """One replica."""

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self, settings: Mapping[str, Any], keys: Keys | None = None
    ) -> None:
        """Load the models.

        Args:
            settings: The fields of `raypixel.serving.settings.Settings`.
            keys: Those that the driver knows, besides those of this machine.
        """
        self._settings = parse(Settings, dict(settings), where="args")
        self._keys = read_keys(self._settings.api_keys_file, os.environ) | (keys or Keys())
        require_keys(self._keys, ray_private.serve_host())
        if self._settings.num_threads is not None:
            import torch

            torch.set_num_threads(self._settings.num_threads)
        name = serve.get_replica_context().replica_id.unique_id
        self._replica = Replica(self._settings, name=name, fetch=fetch_registered)
        await self._replica.open()
        self._reporting = asyncio.create_task(self._report())

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return the application; Ray Serve calls this after the constructor."""
        return create_app(self._replica, keys=self._keys)

    def check_health(self) -> None:
        """Raise if an engine no longer works; Ray Serve then replaces the replica."""
        self._replica.check_health()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return what the autoscaling policy decides by."""
        return {METRIC: float(self._replica.remaining_sub_pixels())}

    async def drain(self) -> None:
        """Take nothing new, and return when what was accepted is answered."""
        await self._replica.drain()

    async def _report(self) -> None:
        """Copy the engines' gauges to Ray's own metrics, which know every replica."""
        gauges = {
            attribute: Gauge(metric_name(attribute), description=text, tag_keys=("model",))
            for attribute, text in GAUGES.items()
        }
        while True:
            for model, engine in self._replica.engines():
                for attribute, gauge in gauges.items():
                    gauge.set(float(getattr(engine.stats, attribute)), tags={"model": model})
            await asyncio.sleep(_METRICS_PERIOD_S)


def build(args: dict[str, Any]) -> serve.Application:
    """Build the application from the `args` of a config file.

    Raises:
        ConfigError: They are not the fields of `Settings`.
    """
    parse(Settings, args, where="args")
    return Endpoint.bind(args)  # type: ignore[attr-defined]


def start(launch: Launch, keys: Keys | None = None) -> Any:
    """Start the service in the Ray cluster that this process is connected to; return its handle.

    Raises:
        ServingError: It does not start.
    """
    quiet = {"log_level": "ERROR", "enable_access_log": False}
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    http = {**launch.http_options, "host": launch.host, "port": launch.port}
    deployment = Endpoint.options(logging_config=quiet, **launch.options)  # type: ignore[attr-defined]
    application = deployment.bind(launch.settings.model_dump(mode="json"), keys)
    try:
        serve.start(http_options=HTTPOptions(**http), logging_config=quiet)
        return serve.run(application, name=APPLICATION, route_prefix="/", logging_config=quiet)
    except (RuntimeError, ray.exceptions.RayError) as error:
        with suppress(RuntimeError, ray.exceptions.RayError):  # what failed first is told
            stop()
        raise ServingError(f"the service does not start: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """Return one line of an error of Ray's: of a traceback the last, of a process that died the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    died = isinstance(error, ray.exceptions.ActorDiedError) and "Traceback" not in str(error)
    return f"{lines[0]} (is the machine short of memory, or very busy?)" if died else lines[-1]


def drain(handle: Any, *, timeout_s: float) -> bool:
    """Let every replica finish what it has accepted while it refuses the rest; return whether they did."""
    try:
        handle.broadcast("drain").results(timeout_s=timeout_s)
    except (TimeoutError, ray.exceptions.RayError):
        return False
    return True


def is_there() -> bool:
    """Return whether the Ray cluster that this process is connected to still listens."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS_TO_ANSWER).close()
    except OSError:
        return False
    return True


def stop() -> None:
    """End the service."""
    serve.shutdown()
