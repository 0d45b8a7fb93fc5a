"""Ray's runtime: start or join a cluster, quietly, and know what it has.

A local cluster is private to this process and ends with it. Ray's dashboard stays on: without it Ray Train cannot
clean up after a stopped trial, and the next one waits forever.
"""

import gc
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from raypixel.config import load_yaml
from raypixel.errors import RaypixelError
from raypixel.experiment import ScalingConfig
from raypixel.train import ray_private

SECONDS_TO_ANSWER = 10.0
CLUSTER_FILE = Path("~/ray_bootstrap_config.yaml")
"""Where `ray up` puts the cluster's file on the head. A cluster begins with its head alone: a sweep that counted only what is
there would find no GPU. A driver that runs on the head (`ray job submit`) reads the file."""

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0: no tables of Ray's
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our MLflow and metrics.jsonl say it all
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # also how often finished workers are noticed
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "180",
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "600",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "raypixel.serving.front:bound_heads",
    "RAY_worker_niceness": "0",  # Ray's 15 starves a training or a service beside anything else that computes
}
_WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"


def prepare_environment() -> None:
    """Set Ray's switches that must be there before it is imported; the user's own settings win."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    if "ray" not in sys.modules:
        # Ray's default, said aloud: otherwise it prints a warning. Ray has read it once it is imported,
        # and a cluster started with another answer would refuse this process
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def ensure_token() -> None:
    """Make the token by which Ray's processes know each other, if there is none.

    Ray makes it too, but of two that start at once on a new machine each would write its own, and one cluster would then
    refuse its own processes.
    """
    names = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    path = Path.home() / ".ray" / "auth_token"
    if os.environ.get("RAY_AUTH_MODE") != "token" or any(map(os.environ.get, names)):
        return
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_name(f".auth_token.{secrets.token_hex(8)}")
    whole.touch(mode=0o600)
    try:
        whole.write_text(secrets.token_hex(32), encoding="utf-8")
        with suppress(FileExistsError):  # another process was faster
            path.hardlink_to(whole)
    finally:
        whole.unlink()


@contextmanager
def cluster(address: str | None = None) -> Iterator[None]:
    """Join the cluster at an address (or RAY_ADDRESS), or start a private one; leave it at the end.

    A cluster that this process is already connected to is used and left as it is.

    Raises:
        RaypixelError: There is no cluster at the address.
    """
    prepare_environment()
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        ensure_token()
    import ray

    if ray.is_initialized():
        yield
        return
    with _preemption_watcher(is_on=address != "local"), _connection(address):
        yield


@contextmanager
def _preemption_watcher(*, is_on: bool) -> Iterator[None]:
    """Switch off Ray Train's watcher where no machine can be taken away: one process less. The user's own setting wins."""
    if is_on or _WATCHER in os.environ:
        yield
        return
    os.environ[_WATCHER] = "0"
    try:
        yield
    finally:
        del os.environ[_WATCHER]


def has_preemption_watcher() -> bool:
    """Return whether Ray Train watches for machines that are to be taken away; its workers have the driver's setting."""
    return os.environ.get(_WATCHER, "1") not in ("0", "false", "False")


@contextmanager
def _connection(address: str) -> Iterator[None]:
    import ray

    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        _knock(address)
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            logging_config=ray.LoggingConfig(log_level="WARNING"),
            **({"object_store_memory": _store_bytes()} if address == "local" else {}),
        )
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise RaypixelError(f"no Ray cluster answers at {address}: {reason}") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(
            signal.SIGTERM, on_sigterm
        )  # Ray's own ends a training without its checkpoint
    for name in ("ray", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        # a handle in a reference cycle that is collected after the shutdown makes Ray end this process at once
        gc.collect()
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError where nothing listens at host:port, which Ray itself would try for a quarter of an hour."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()


def worker_resources(scaling: ScalingConfig) -> tuple[dict[str, float], bool]:
    """Return what one worker asks of Ray and whether it computes on a GPU.

    Raises:
        RaypixelError: The machines of the cluster cannot hold all the workers at once.
    """
    use_gpu = scaling.device == "cuda" or (scaling.device == "auto" and has_gpus())
    wanted = {"GPU": scaling.gpus_per_worker} if use_gpu else {}
    if scaling.cpus_per_worker is not None:
        choices = [scaling.cpus_per_worker]
    elif use_gpu:
        choices = [1.0]
    else:  # as many CPUs each as all the workers can have
        choices = [float(n) for n in range(max(_node_amounts("CPU"), default=0), 0, -1)]
    for cpus in choices:
        if num_fitting({"CPU": cpus, **wanted}) >= scaling.max_workers:
            return {"CPU": cpus, **wanted}, use_gpu
    least = {"CPU": min(choices, default=1.0), **wanted}
    if num_fitting(least) >= scaling.min_workers:  # more may come
        return least, use_gpu
    each = " and ".join(f"{n:g} {k}" for k, n in least.items())
    raise RaypixelError(
        f"scaling.num_workers must fit the cluster, got {scaling.min_workers} workers of {each} "
        f"each: {describe_nodes()}; use fewer, or join a larger cluster with --address"
    )


def has_gpus() -> bool:
    """Return whether a machine of the cluster has a GPU, or one that its autoscaler may yet start."""
    return any(node.get("GPU", 0.0) for node in _nodes())


def num_fitting(wanted: dict[str, float]) -> int:
    """Return how many bundles of these resources the machines of the cluster hold at once.

    Machines that its autoscaler may yet start are counted too.
    """
    amounts = {name: n for name, n in wanted.items() if n}
    return sum(
        min(int(node.get(name, 0.0) / n + 1e-9) for name, n in amounts.items()) for node in _nodes()
    )


def describe_nodes() -> str:
    """Return a few words on the machines of the cluster."""
    words = [f"{node.get('CPU', 0):g} CPU and {node.get('GPU', 0):g} GPU" for node in _nodes()]
    return f"its machines have {', '.join(words)}"


def _node_amounts(resource: str) -> list[int]:
    return [int(node.get(resource, 0.0)) for node in _nodes()]


def _nodes() -> list[dict[str, float]]:
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return alive + promised_nodes(alive)


def _store_bytes() -> int:
    """Object store of a private cluster: a fifth of the memory, at most 4 GB."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(min(4e9, memory / 5))


def promised_nodes(alive: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """Return the resources of each machine that may yet come; none where there is no file of `ray up`."""
    path = CLUSTER_FILE.expanduser()
    return missing_nodes(load_yaml(path), alive) if path.exists() else []


def missing_nodes(
    config: dict[str, Any], alive: Sequence[dict[str, float]]
) -> list[dict[str, float]]:
    """Return the resources of each machine that a `ray up` file allows besides those alive, the first choice first.

    Args:
        config: The file's content.
        alive: Resources of the machines that are there, the head among them.
    """
    head = config["head_node_type"]
    kinds = [kind for name, kind in config["available_node_types"].items() if name != head]
    there = Counter(map(_size, alive))
    left = int(config.get("max_workers", 0)) - max(len(alive) - 1, 0)
    missing: list[dict[str, float]] = []
    for kind in sorted(kinds, key=lambda kind: -int(kind.get("priority", 0))):
        resources = {name: float(n) for name, n in kind["resources"].items()}
        most = int(kind.get("max_workers", config.get("max_workers", 0)))
        known = min(most, there[_size(resources)])
        there[_size(resources)] -= known
        missing += [resources] * (most - known)
    return missing[: max(left, 0)]


def _size(resources: dict[str, float]) -> tuple[float, float]:
    return resources.get("CPU", 0.0), resources.get("GPU", 0.0)


def waiting_groups() -> list[str]:
    """Return what each placement group that has no room asks for."""
    from ray.util import placement_group_table

    return [
        f"{group['name'] or 'workers'} of {' + '.join(map(_amounts, group['bundles'].values()))}"
        for group in placement_group_table().values()
        if group["state"] in ("PENDING", "RESCHEDULING")
    ]


def remove_abandoned_groups() -> None:
    """Remove the placement groups that the stopped trainings of this job left behind.

    Ray Train has an actor for this, which asks the dashboard whether the training still lives, and whose thread ends where
    the dashboard once does not answer or several clusters run on one machine. A group is removed only after the training that
    made it: one that lives takes the loss of its workers for a failure, and makes another group.
    """
    from ray import PlacementGroupID
    from ray.util import remove_placement_group
    from ray.util.placement_group import PlacementGroup

    for group in ray_private.abandoned_groups():
        remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(group)))


def _amounts(bundle: dict[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in bundle.items())
