"""Files of `ray up`: Ray's schema with all its problems at once, Ray's own check, and what ours must have besides."""

from collections.abc import Iterator
from typing import Any

from raypixel.cluster.problems import image_problems, schema_problems
from raypixel.train.ray_private import launcher_schema, prepared_launcher_config


def launcher_problems(config: dict[str, Any]) -> list[str]:
    """Return one line for each problem of a `ray up` file."""
    # Ray itself stops at the first key that its schema refuses
    problems = [*schema_problems(launcher_schema(), config)] or [*_ray_problems(config)]
    return problems or [*_own_problems(config)]


def _ray_problems(config: dict[str, Any]) -> Iterator[str]:
    try:
        prepared_launcher_config(config)
    except Exception as error:  # Ray raises many kinds for a bad file
        yield " ".join(str(error).split())


def _own_problems(config: dict[str, Any]) -> Iterator[str]:
    docker = config.get("docker") or {}
    images = {f"docker.{key}": docker[key] for key in docker if key.endswith("image")}
    for name, kind in config.get("available_node_types", {}).items():
        if "worker_image" in (kind.get("docker") or {}):
            place = f"available_node_types.{name}.docker.worker_image"
            images[place] = kind["docker"]["worker_image"]
    for where, image in images.items():
        yield from image_problems(where, image)
    start = " ".join(config.get("head_start_ray_commands") or ["(Ray's default)"])
    if "--dashboard-host=127.0.0.1" not in start:
        yield (
            "head_start_ray_commands must keep the dashboard on loopback (--dashboard-host=127.0.0.1), "
            f"got {start!r}: whoever reaches it runs code on the cluster"
        )
    run_options = [*(docker.get("run_options") or []), *(docker.get("head_run_options") or [])]
    if "RAY_AUTH_MODE=token" not in " ".join([start, *map(str, run_options)]):
        yield (
            "docker.run_options or head_start_ray_commands must set RAY_AUTH_MODE=token: "
            "without it every process that reaches the head's ports runs code on the cluster"
        )
