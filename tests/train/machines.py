"""A Ray cluster of several nodes on this machine, to be killed and drained; run as a program, it is one such cluster.

It has a process of its own, because a process can be connected to one cluster only and the tests' is another.
"""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any


def environment() -> dict[str, str]:
    """Return the variables of a process of its own: a cluster of the tests' process has set some of Ray's."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


class Machines:
    """The cluster, from the side of a test: a head that runs no work, and nodes that come and go."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = self._answer()

    def add(self, num_cpus: int = 1) -> str:
        """Start a node; return its id."""
        return self._ask(f"add {num_cpus}")

    def kill(self, node: str) -> None:
        """End all processes of a node with SIGKILL."""
        self._ask(f"kill {node}")

    def drain(self, node: str, *, seconds: float) -> None:
        """Announce that a node will be taken away, as a cloud does with a spot machine."""
        self._ask(f"drain {node} {seconds}")

    def stop(self) -> None:
        """End the cluster."""
        self._process.communicate(timeout=60)

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("answer "):
                return line.removeprefix("answer ").strip()
        raise AssertionError("the cluster's process ended")


def serve() -> None:
    """Start a cluster and do what the lines of the standard input say, until it ends."""
    from raypixel.train import ray_cluster

    ray_cluster.prepare_environment()
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False},
    )
    nodes: dict[str, Any] = {}
    _answer(cluster.address)
    for line in sys.stdin:
        command, *arguments = line.split()
        answer = "done"
        if command == "add":
            node = cluster.add_node(num_cpus=int(arguments[0]))
            nodes[node.node_id] = node
            answer = node.node_id
        elif command == "kill":
            _kill(cluster, nodes.pop(arguments[0]))
        elif command == "drain":
            _drain(cluster.address, arguments[0], seconds=float(arguments[1]))
        _answer(answer)
    cluster.shutdown()


def _answer(text: str) -> None:
    sys.stdout.write(f"answer {text}\n")
    sys.stdout.flush()


def _kill(cluster: Any, node: Any) -> None:
    """End all processes of a node in the same moment, its workers too, as a power cut does."""
    import psutil

    own = [info.process.pid for infos in node.all_processes.values() for info in infos]
    parents = [psutil.Process(pid) for pid in own]
    children = [child for each in parents for child in each.children(recursive=True)]
    for process in [*parents, *children]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    cluster.remove_node(node, allow_graceful=False)  # forgets it


def _drain(address: str, node: str, *, seconds: float) -> None:
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline = int((time.time() + seconds) * 1000)
    accepted, why = GcsClient(address=address).drain_node(node, reason, "spot", deadline)
    assert accepted, why


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    serve()
