"""How a cluster grows and shrinks: Ray's real autoscaler over a file's own node types, every node a process of this machine.

`ray start` runs a private head on loopback with the file's node types and Ray's provider of pretended nodes. Placeholders
that ask for what a sweep's trials ask for wait, the autoscaler decides, nodes appear, work, idle and go.
Everything runs below one temporary folder, whose name is how the processes are found and ended: Ray's own `ray stop`
would end other people's clusters too.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from raypixel.cluster.launcher import launcher_problems
from raypixel.config import load_yaml
from raypixel.errors import ConfigError, RaypixelError
from raypixel.sweeps import Sweep
from raypixel.train import ray_cluster, ray_private

STORE_BYTES = 80_000_000
SECONDS_TO_START = 90.0
MARK = "node_type:"
"""A resource by which a node says of which type it is."""


@dataclass(frozen=True)
class Demand:
    """What is asked of the cluster.

    Attributes:
        resources: Of each placeholder.
        count: Placeholders.
        seconds: How long each works.
    """

    resources: Mapping[str, float]
    count: int
    seconds: float


@dataclass(frozen=True)
class Change:
    """A change in the cluster.

    Attributes:
        seconds: Since the demand began.
        what: The demand begins or is done, or a machine is up or down.
        node_type: The machine's type in the file.
        count: Machines that are up after it; or placeholders.
    """

    seconds: float
    what: Literal["begins", "up", "down", "done"]
    node_type: str | None
    count: int

    def describe(self) -> str:
        """Return a line for a person."""
        match self.what:
            case "begins":
                return f"{self.count} workers wait, no machine is there but the head"
            case "done":
                return f"all {self.count} workers are done"
        sign = "+" if self.what == "up" else "-"
        return f"{sign} {self.node_type:15} {self.count} up"


def simulate(
    path: Path,
    demand: Demand,
    *,
    idle_seconds: float = 6.0,
    timeout_seconds: float = 300.0,
    on_change: Callable[[Change], None],
) -> None:
    """Run the autoscaler over a file's node types until the demand is met and the workers are gone again.

    Args:
        path: A file for `ray up`.
        demand: What is asked of the cluster.
        idle_seconds: How long a node idles before it goes; the file's own time would be minutes.
        timeout_seconds: For all of it.
        on_change: Told of each change, as it happens.

    Raises:
        ConfigError: The file is not a cluster that Ray accepts.
        RaypixelError: No node type holds the demand, or it took too long.
    """
    ray_cluster.prepare_environment()  # before Ray is imported to check the file
    config = _read(path)
    if config["provider"]["type"] == "local":
        raise RaypixelError(f"{path}: must have an autoscaler to simulate, got provider local")
    _check_fits(config, demand, path)
    with _cluster(config, idle_seconds) as head:
        _watch(head, demand, timeout_seconds, on_change)


def demand_of(sweep: Sweep, *, seconds: float, most: int) -> Demand:
    """Return what the trials of a sweep ask for on a cluster that has GPUs: one placeholder for each of their workers."""
    wanted = sweep.config.raypixel.resources
    gpus = 1.0 if wanted.gpus_per_worker is None else wanted.gpus_per_worker
    resources = {"CPU": float(wanted.cpus_per_worker), "GPU": gpus}
    num_trials = len(sweep.trials) or sweep.config.run_cap or 1
    return Demand(resources, min(most, num_trials * wanted.workers), seconds)


def _read(path: Path) -> dict[str, Any]:
    mapping = load_yaml(path)
    problems = launcher_problems(mapping)
    if problems:
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    return ray_private.prepared_launcher_config(mapping)


def _check_fits(config: dict[str, Any], demand: Demand, path: Path) -> None:
    types = {
        name: each["resources"]
        for name, each in config["available_node_types"].items()
        if name != config["head_node_type"] and each.get("max_workers", 0) > 0
    }
    wanted = dict(demand.resources)
    if not any(all(has.get(k, 0) >= n for k, n in wanted.items()) for has in types.values()):
        shown = ", ".join(f"{name} {resources}" for name, resources in types.items())
        raise RaypixelError(f"{path}: a node type must hold {wanted}, got {shown}")


def _watch(
    head: "_Head",
    demand: Demand,
    timeout_seconds: float,
    on_change: Callable[[Change], None],
) -> None:
    import ray

    started, deadline = time.monotonic(), time.monotonic() + timeout_seconds
    with ray_cluster.cluster(head.address):

        @ray.remote(max_retries=0)
        def placeholder(seconds: float) -> None:
            time.sleep(seconds)

        amounts = dict(demand.resources)
        options = {"num_cpus": amounts.pop("CPU", 0), "num_gpus": amounts.pop("GPU", 0)}
        begin = placeholder.options(**options, resources=amounts)
        waiting = [begin.remote(demand.seconds) for _ in range(demand.count)]
        on_change(Change(0.0, "begins", None, demand.count))
        up: dict[str, str] = {}
        while waiting or up:
            head.check()
            if time.monotonic() > deadline:
                rule = f"simulation must end within {timeout_seconds:g} s"
                raise RaypixelError(f"{rule}, got {len(waiting)} waiting and {len(up)} nodes up")
            done, waiting = (
                ray.wait(waiting, num_returns=len(waiting), timeout=0.5) if waiting else ([], [])
            )
            if not waiting and not done:
                time.sleep(0.5)
            now = time.monotonic() - started
            for change in _changes(up, _workers(), now):
                on_change(change)
            if done and not waiting:
                ray.get(done)
                on_change(Change(now, "done", None, demand.count))


def _changes(up: dict[str, str], there: dict[str, str], now: float) -> Iterator[Change]:
    """Yield what changed, and bring `up` (node id to type) up to date."""
    for node, node_type in there.items():
        if node not in up:
            up[node] = node_type
            yield Change(now, "up", node_type, len(up))
    for node in [node for node in up if node not in there]:
        node_type = up.pop(node)
        yield Change(now, "down", node_type, len(up))


def _workers() -> dict[str, str]:
    import ray

    found = {}
    for node in ray.nodes():
        marks = [name for name in node["Resources"] if name.startswith(MARK)]
        if node["Alive"] and marks:
            found[node["NodeID"]] = marks[0].removeprefix(MARK)
    return found


@dataclass(frozen=True)
class _Head:
    """A head that was started here."""

    address: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def check(self) -> None:
        """Raise if it has ended, for example because its autoscaler did not take the config."""
        if self.process.poll() is not None:
            lines = self.log.read_text(errors="replace").strip().splitlines()
            reasons = [line for line in lines if "Error" in line] or lines or ["silence"]
            raise RaypixelError(f"Ray must run at {self.address}, got: {reasons[-1]}")

    def wait(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + SECONDS_TO_START
        while "Ray runtime started" not in self.log.read_text(errors="replace"):
            self.check()
            if time.monotonic() > deadline:
                rule = f"Ray must start at {self.address} within {SECONDS_TO_START:g} s"
                raise RaypixelError(f"{rule}, got silence")
            time.sleep(0.3)


@contextmanager
def _cluster(config: dict[str, Any], idle_seconds: float) -> Iterator[_Head]:
    """Start a private head whose autoscaler has the node types."""
    folder = Path(tempfile.mkdtemp(prefix="rpx", dir="/tmp"))  # short: sockets have paths
    address = f"127.0.0.1:{_free_port()}"
    provider, environment = ray_private.simulated_nodes(address)
    file = folder / "autoscaling.json"
    file.write_text(json.dumps(_pretended(config, provider, idle_seconds)), encoding="utf-8")
    head = config["available_node_types"][config["head_node_type"]]["resources"]
    command = _start_command(folder, file, address, dict(head))
    log = folder / "head.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            started = _Head(address, process, log)
            started.wait()
            yield started
        finally:
            _end(process, folder)
            shutil.rmtree(folder, ignore_errors=True)


def _pretended(
    config: dict[str, Any], provider: dict[str, Any], idle_seconds: float
) -> dict[str, Any]:
    """Return the config with the provider's machines in place of the real ones, each marked with its type."""
    types: dict[str, Any] = {}
    for name, each in config["available_node_types"].items():
        kept = {key: each[key] for key in ("min_workers", "max_workers", "priority") if key in each}
        marks = {f"{MARK}{name}": 1, "object_store_memory": STORE_BYTES}
        types[name] = {**kept, "resources": {**each["resources"], **marks}, "node_config": {}}
    del types[config["head_node_type"]]
    resources = config["available_node_types"][config["head_node_type"]]["resources"]
    head = {"resources": resources, "node_config": {}, "max_workers": 0}
    empty: dict[str, Any] = {name: [] for name in config if name.endswith("_commands")}
    return {
        **config,
        **empty,
        "cluster_name": "simulated",
        "idle_timeout_minutes": idle_seconds / 60,
        "provider": provider,
        "auth": {"ssh_user": "nobody"},
        "docker": {},
        "file_mounts": {},
        "available_node_types": {**types, ray_private.SIMULATED_HEAD_TYPE: head},
        "head_node_type": ray_private.SIMULATED_HEAD_TYPE,
    }


def _start_command(folder: Path, file: Path, address: str, resources: dict[str, Any]) -> list[str]:
    host, port = address.split(":")
    return [
        str(Path(sys.executable).with_name("ray")),
        "start", "--head", "--block", f"--node-ip-address={host}", f"--port={port}",
        f"--temp-dir={folder}", f"--autoscaling-config={file}",
        f"--num-cpus={resources.pop('CPU', 0)}", f"--num-gpus={resources.pop('GPU', 0)}",
        f"--resources={json.dumps(resources)}", f"--object-store-memory={STORE_BYTES}",
        "--include-dashboard=false", "--disable-usage-stats",
        f"--ray-client-server-port={_free_port()}", "--dashboard-agent-listen-port=0",
        "--min-worker-port=0", "--max-worker-port=0",
    ]  # fmt: skip


def _end(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    """End the head and every process that has the folder in its command."""
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for pid in _processes(folder):
            try:
                os.kill(pid, sign)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + 5
        while _processes(folder) and time.monotonic() < deadline:
            time.sleep(0.2)


def _processes(folder: Path) -> list[int]:
    listing = subprocess.run(["ps", "-axo", "pid=,command="], capture_output=True, text=True)
    lines = [line.split(None, 1) for line in listing.stdout.splitlines() if str(folder) in line]
    return [int(pid) for pid, _ in lines if int(pid) != os.getpid()]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
