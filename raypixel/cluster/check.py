"""`raypixel cluster check`: every problem of a cluster file at once, before a machine is paid for.

What a file is, is read off its content: `ray up` YAML has a provider, a KubeRay manifest has a kind, a
Ray Serve config has applications.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raypixel.cluster.kuberay import KINDS, manifest_problems
from raypixel.cluster.launcher import launcher_problems
from raypixel.config import parse_yaml
from raypixel.errors import ConfigError, did_you_mean
from raypixel.serving.serve_config import check_serve_config

LAUNCHER = "ray up"
SERVE = "Ray Serve"


def check_file(path: Path) -> list[str]:
    """Check a cluster file and return its kinds, such as "ray up" or "RayJob".

    Raises:
        ConfigError: One line for each problem.
    """
    kinds, problems = [], []
    for where, document in _documents(path):
        kind = kind_of(document)
        kinds.append(kind or "?")
        if kind == LAUNCHER:
            problems += [f"{where}: {text}" for text in launcher_problems(document)]
        elif kind == SERVE:
            try:
                check_serve_config(document, where=where)
            except ConfigError as error:
                problems += error.problems
        elif kind in KINDS:
            problems += [f"{where}: {text}" for text in manifest_problems(kind, document)]
        elif not (document.get("apiVersion") and "ray.io" not in str(document["apiVersion"])):
            problems.append(_not_known(document, where))
        # another kind of Kubernetes' own, such as a secret, is not ours to check
    if problems:
        raise ConfigError(problems)
    return kinds


def kind_of(document: dict[str, Any]) -> str | None:
    """Return what a document describes, None if that cannot be told."""
    if "apiVersion" in document or "kind" in document:
        return str(document.get("kind"))
    if "applications" in document:
        return SERVE
    is_launcher = bool({"provider", "cluster_name", "available_node_types"} & set(document))
    return LAUNCHER if is_launcher else None


def _documents(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read ({reason})") from None
    parts = [part for part in re.split(r"(?m)^---\s*$", text) if _has_content(part)]
    if not parts:
        raise ConfigError(f"{path}: must describe a cluster, got an empty file")
    for number, part in enumerate(parts, start=1):
        where = str(path) if len(parts) == 1 else f"{path} (document {number})"
        yield where, parse_yaml(part, where=where)


def _has_content(text: str) -> bool:
    return any(line.strip() and not line.lstrip().startswith("#") for line in text.splitlines())


def _not_known(document: dict[str, Any], where: str) -> str:
    if "kind" not in document and "apiVersion" not in document:
        return (
            f"{where}: must be a `ray up` file (provider, available_node_types), a KubeRay manifest "
            f"(apiVersion, kind) or a Ray Serve config (applications), got keys {', '.join(map(str, document)) or 'none'}"
        )
    kind = document.get("kind")
    return f"{where}: kind must be one of {', '.join(KINDS)}, got {kind!r}{did_you_mean(str(kind), KINDS)}"
