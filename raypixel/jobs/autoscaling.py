"""The machines that a cluster's autoscaler may yet start.

A cluster of `ray up` begins with its head alone: a sweep that counted only what is there would find no GPU. The head
has the cluster's file, written by `ray up`; a driver that runs there (`ray job submit`) reads it.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raypixel.config import load_yaml

FILE = Path("~/ray_bootstrap_config.yaml")
"""Where `ray up` puts the cluster's file on the head."""


def promised_nodes(alive: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """Return the resources of each machine that may yet come; none where there is no file of `ray up`."""
    path = FILE.expanduser()
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
