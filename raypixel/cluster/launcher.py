"""Files of `ray up`: Ray's schema with all its problems at once, Ray's own check, and what ours must have besides."""

import contextlib
import copy
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raypixel.cluster.versions import image_version, version_problem
from raypixel.errors import did_you_mean


def launcher_problems(config: dict[str, Any]) -> list[str]:
    """Return one line for each problem of a `ray up` file."""
    problems = [*_schema_problems(config)] or [*_ray_problems(config)]
    return problems or [*_own_problems(config)]


def prepared_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return a copy with Ray's defaults filled in, as `ray up` does.

    Raises:
        Exception: Whatever Ray's check raises.
    """
    from ray.autoscaler._private.util import prepare_config, validate_config

    level = logging.getLogger("ray.autoscaler").level
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        prepared = prepare_config(copy.deepcopy(config))
        validate_config(prepared)
    logging.getLogger("ray.autoscaler").setLevel(level)
    return dict(prepared)


def _schema_problems(config: dict[str, Any]) -> Iterator[str]:
    """Name every place that Ray's schema refuses; Ray itself stops at the first."""
    import jsonschema
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    for error in jsonschema.Draft7Validator(schema).iter_errors(config):
        place = ".".join(str(part) for part in error.absolute_path)
        if error.validator == "additionalProperties":
            known = error.schema.get("properties", {})
            for key in sorted(set(error.instance) - set(known)):
                where = f"{place}.{key}" if place else str(key)
                yield f"{where} is not a known key{did_you_mean(str(key), known)}"
        elif error.validator == "required":
            missing = [key for key in error.validator_value if key not in error.instance]
            yield from (f"{place}.{key} must be given".lstrip(".") for key in missing)
        elif error.validator == "type":
            given = error.instance
            shown = f"a {type(given).__name__}" if isinstance(given, dict | list) else repr(given)
            yield f"{place} must be of type {error.validator_value}, got {shown}"
        else:
            yield f"{place}: {error.message}"


def _ray_problems(config: dict[str, Any]) -> Iterator[str]:
    try:
        prepared_config(config)
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
        yield from version_problem(f"tag of {where}", image_version(image) or f"{image!r}")
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
