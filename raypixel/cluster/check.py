"""`raypixel cluster check`: every problem of a cluster file at once, before a machine is paid for.

What a file is, is read off its content: `ray up` YAML has a provider, a KubeRay manifest has a kind, a
Ray Serve config has applications.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from raypixel.cluster.kuberay import DOCUMENTS, ClusterSpec, RayJob, RayService, cluster_of
from raypixel.cluster.launcher import launcher_problems
from raypixel.cluster.versions import image_version, version_problem
from raypixel.config import parse, parse_yaml
from raypixel.errors import ConfigError, did_you_mean
from raypixel.serving.serve_config import check_serve_config, parse_serve_config

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
            problems += _serve_problems(partial(check_serve_config, document, where=where))
        elif kind in DOCUMENTS:
            problems += _manifest_problems(kind, document, where)
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
    return (
        LAUNCHER if {"provider", "cluster_name", "available_node_types"} & set(document) else None
    )


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
    return f"{where}: kind must be one of {', '.join(DOCUMENTS)}, got {kind!r}{did_you_mean(str(kind), DOCUMENTS)}"


def _manifest_problems(kind: str, document: dict[str, Any], where: str) -> list[str]:
    try:
        manifest = parse(DOCUMENTS[kind], document, where=where)
    except ConfigError as error:
        return list(error.problems)
    place, cluster = cluster_of(manifest)
    problems = [] if cluster is None else list(_cluster_problems(cluster, place))
    if isinstance(manifest, RayJob):
        problems += _job_problems(manifest)
    if isinstance(manifest, RayService):
        text, name = manifest.spec.serve_config_v2, "spec.serveConfigV2"
        problems += _serve_problems(lambda: parse_serve_config(text, where=name))
    return [f"{where}: {text}" for text in problems]


def _cluster_problems(cluster: ClusterSpec, place: str) -> Iterator[str]:
    yield from version_problem(f"{place}.rayVersion", cluster.ray_version)
    groups = {"headGroupSpec": cluster.head_group_spec} | {
        f"workerGroupSpecs.{index}": group for index, group in enumerate(cluster.worker_group_specs)
    }
    for name, group in groups.items():
        containers = group.template.spec.get("containers")
        if not containers or not isinstance(containers, list):
            yield f"{place}.{name}.template.spec.containers must have a container, got {containers!r}"
            continue
        image = str(containers[0].get("image", ""))
        where = f"tag of {place}.{name}.template.spec.containers.0.image"
        yield from version_problem(where, image_version(image) or f"{image!r}")
    names = [group.group_name for group in cluster.worker_group_specs]
    for index, group in enumerate(cluster.worker_group_specs):
        where = f"{place}.workerGroupSpecs.{index}"
        if group.group_name in names[:index]:
            yield f"{where}.groupName must be unique, got {group.group_name!r} twice"
        low, high = group.min_replicas, group.max_replicas
        count = low if group.replicas is None else group.replicas
        if not low <= count <= high:
            yield f"{where} must have minReplicas <= replicas <= maxReplicas, got {low}, {count}, {high}"
    if cluster.auth_options.mode != "token":
        yield (
            f"{place}.authOptions.mode must be token, got {cluster.auth_options.mode!r}: "
            "whoever reaches the dashboard runs code in the cluster"
        )


def _job_problems(job: RayJob) -> Iterator[str]:
    if (job.spec.ray_cluster_spec is None) == (job.spec.cluster_selector is None):
        yield "spec must have either rayClusterSpec or clusterSelector"
    for name, text in (
        ("runtimeEnvYAML", job.spec.runtime_env_yaml),
        ("entrypointResources", job.spec.entrypoint_resources),
    ):
        if text is not None:
            yield from _embedded(f"spec.{name}", text)[1]


def _serve_problems(check: Callable[[], object]) -> list[str]:
    try:
        check()
    except ConfigError as error:
        return list(error.problems)
    return []


def _embedded(where: str, text: str) -> tuple[dict[str, Any] | None, list[str]]:
    try:
        return parse_yaml(text, where=where), []
    except ConfigError as error:
        return None, list(error.problems)
