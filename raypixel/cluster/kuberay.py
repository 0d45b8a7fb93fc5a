"""KubeRay's manifests: what its schema refuses, and what ours must have besides.

The operator may drop a field that it does not know without a word, so a typo there costs a night of GPUs.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from raypixel.cluster.problems import image_problems, schema_problems, version_problems
from raypixel.config import load_yaml, parse_yaml
from raypixel.errors import ConfigError
from raypixel.serving.serve_config import parse_serve_config

KINDS = ("RayCluster", "RayJob", "RayCronJob", "RayService")

MOST_REPLICAS = 2**31 - 1
"""A group's bound where it gives none."""


def manifest_problems(kind: str, document: dict[str, Any]) -> list[str]:
    """Return one line for each problem of a manifest of one of our KINDS."""
    schema = {"$ref": f"#/definitions/{kind}", "definitions": _definitions()}
    return [*schema_problems(schema, document)] or [*_own_problems(kind, document["spec"])]


@cache
def _definitions() -> dict[str, Any]:
    return dict(load_yaml(Path(__file__).with_name("kuberay.yaml"))["definitions"])


def _own_problems(kind: str, spec: dict[str, Any]) -> Iterator[str]:
    match kind:
        case "RayCluster":
            yield from _cluster_problems(spec, "spec")
        case "RayJob":
            yield from _job_problems(spec, "spec")
        case "RayCronJob":
            yield from _job_problems(spec["jobTemplate"], "spec.jobTemplate")
        case "RayService":
            yield from _cluster_problems(spec["rayClusterConfig"], "spec.rayClusterConfig")
            if "serveConfigV2" not in spec:
                yield "spec.serveConfigV2 must be given"
            else:
                yield from _refusals(
                    parse_serve_config, spec["serveConfigV2"], "spec.serveConfigV2"
                )


def _job_problems(job: dict[str, Any], place: str) -> Iterator[str]:
    if not job.get("entrypoint") and job.get("submissionMode") != "InteractiveMode":
        yield f"{place}.entrypoint must be given"
    if ("rayClusterSpec" in job) == ("clusterSelector" in job):
        yield f"{place} must have either rayClusterSpec or clusterSelector"
    if "rayClusterSpec" in job:
        yield from _cluster_problems(job["rayClusterSpec"], f"{place}.rayClusterSpec")
    for name in ("runtimeEnvYAML", "entrypointResources"):
        if name in job:
            yield from _refusals(parse_yaml, job[name], f"{place}.{name}")


def _refusals(parse: Any, text: str, where: str) -> list[str]:
    """Return the problems of a text that has a format of its own."""
    try:
        parse(text, where=where)
    except ConfigError as error:
        return list(error.problems)
    return []


def _cluster_problems(cluster: dict[str, Any], place: str) -> Iterator[str]:
    yield from version_problems(f"{place}.rayVersion", cluster.get("rayVersion"))
    workers = {
        f"workerGroupSpecs.{index}": group
        for index, group in enumerate(cluster.get("workerGroupSpecs", []))
    }
    for name, group in {"headGroupSpec": cluster["headGroupSpec"], **workers}.items():
        where = f"{place}.{name}.template.spec.containers"
        containers = group["template"]["spec"].get("containers")
        if not containers or not isinstance(containers, list):
            yield f"{where} must have a container, got {containers!r}"
        else:
            yield from image_problems(f"{where}.0.image", containers[0].get("image", ""))
    names = [group["groupName"] for group in workers.values()]
    for index, (name, group) in enumerate(workers.items()):
        if names[index] in names[:index]:
            yield f"{place}.{name}.groupName must be unique, got {names[index]!r} twice"
        low, high = group.get("minReplicas", 0), group.get("maxReplicas", MOST_REPLICAS)
        count = group.get("replicas", low)
        if not low <= count <= high:
            rule = "must have minReplicas <= replicas <= maxReplicas"
            yield f"{place}.{name} {rule}, got {low}, {count}, {high}"
    mode = cluster.get("authOptions", {}).get("mode", "disabled")
    if mode != "token":
        yield (
            f"{place}.authOptions.mode must be token, got {mode!r}: "
            "whoever reaches the dashboard runs code in the cluster"
        )
