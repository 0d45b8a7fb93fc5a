"""A strict reading of Ray Serve's config files, whose own schema accepts unknown keys at every level without a word.

The schema is Ray's own, read from the installed version: a key is known if Ray has a field of that name.
"""

import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from raypixel.config import ConfigProblems, load_yaml, parse_yaml, validate
from raypixel.errors import ConfigError, did_you_mean
from raypixel.serving.settings import Limits, Settings

IMPORT_PATH = "raypixel.serving.app:build"
DEPLOYMENT = "raypixel"


def read_serve_config(path: Path) -> dict[str, Any]:
    """Read and check a config file for `serve deploy` or `raypixel serve --config`.

    Raises:
        ConfigError: One line for each problem.
    """
    return check_serve_config(load_yaml(path), where=str(path))


def parse_serve_config(text: str, *, where: str) -> dict[str, Any]:
    """Read and check a config's text, such as a RayService's `serveConfigV2`; see `read_serve_config`."""
    return check_serve_config(parse_yaml(text, where=where), where=where)


def check_serve_config(mapping: dict[str, Any], *, where: str) -> dict[str, Any]:
    """Check a config: every key is known to Ray, every value fits, and `args` are raypixel's settings.

    Args:
        mapping: The config.
        where: What to call it in errors.

    Returns:
        The mapping.

    Raises:
        ConfigError: One line for each problem.
    """
    from ray.serve.schema import ServeDeploySchema as deploy

    problems = list(_unknown_keys(mapping, deploy, ()))
    if not problems:
        problems = list(_wrong_values(mapping, deploy))
    applications = mapping.get("applications")
    for number, application in enumerate(applications if isinstance(applications, list) else ()):
        if isinstance(application, dict):
            problems += _application_problems(application, (f"applications[{number}]",))
    if problems:
        raise ConfigError([f"{where}: {'.'.join(loc)} {text}" for loc, text in problems])
    return mapping


LocatedProblem = tuple[tuple[str, ...], str]


def _application_problems(
    application: dict[str, Any], loc: tuple[str, ...]
) -> Iterator[LocatedProblem]:
    if application.get("import_path") != IMPORT_PATH:
        return  # another program's
    try:
        validate(Settings, application.get("args", {}))
    except ConfigProblems as error:
        for inner, text in error.items:
            yield (*loc, "args", *inner), text
    timeout_s = _timeout_s(application)
    for number, deployment in enumerate(application.get("deployments") or ()):
        where = (*loc, f"deployments[{number}]")
        name = deployment.get("name") if isinstance(deployment, dict) else None
        if isinstance(name, str) and name != DEPLOYMENT:
            yield (
                (*where, "name"),
                f"must be {DEPLOYMENT!r}, got {name!r}{did_you_mean(name, [DEPLOYMENT])}",
            )
        patience = deployment.get("graceful_shutdown_timeout_s") if name else None
        if isinstance(patience, int | float) and patience < timeout_s:
            rule = f"must be at least args.limits.timeout_s, {timeout_s:g}, or accepted requests are cut"
            yield (*where, "graceful_shutdown_timeout_s"), f"{rule}, got {patience:g}"


def _timeout_s(application: dict[str, Any]) -> float:
    limits = (application.get("args") or {}).get("limits")
    given = limits.get("timeout_s") if isinstance(limits, dict) else None
    return float(given) if isinstance(given, int | float) else Limits().timeout_s


def _unknown_keys(
    value: Any, model: type[BaseModel], loc: tuple[str, ...]
) -> Iterator[LocatedProblem]:
    """Walk a mapping beside the schema's fields."""
    if not isinstance(value, Mapping):
        return
    fields = {info.alias or name: info for name, info in model.model_fields.items()}
    fields |= dict(model.model_fields)
    for key, inner in value.items():
        if key not in fields:
            yield (*loc, str(key)), f"is not a known key{did_you_mean(str(key), fields)}"
            continue
        if key == "runtime_env" and isinstance(inner, Mapping):
            yield from _unknown_of_environment(inner, (*loc, key))
            continue
        nested = next(_models(fields[key].annotation), None)
        if nested is None:
            continue
        if isinstance(inner, list):
            for number, item in enumerate(inner):
                yield from _unknown_keys(item, nested, (*loc, f"{key}[{number}]"))
        else:
            yield from _unknown_keys(inner, nested, (*loc, str(key)))


def _unknown_of_environment(
    value: Mapping[str, Any], loc: tuple[str, ...]
) -> Iterator[LocatedProblem]:
    from ray.runtime_env import RuntimeEnv

    for key in value:
        if key not in RuntimeEnv.known_fields:
            hint = did_you_mean(str(key), RuntimeEnv.known_fields)
            yield (*loc, str(key)), f"is not a known key{hint}"


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Return the pydantic models inside a type such as `list[Model] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType, list, typing.Annotated):
        for part in typing.get_args(annotation):
            yield from _models(part)


def _wrong_values(mapping: dict[str, Any], deploy: type[BaseModel]) -> Iterator[LocatedProblem]:
    try:
        deploy.model_validate(mapping)
    except ValidationError as error:
        for detail in error.errors():
            loc = tuple(str(part) for part in detail["loc"])
            yield loc, f"{detail['msg'].lower()}, got {detail['input']!r}"[:300]
    except (ImportError, AttributeError, TypeError, ValueError) as error:  # of a policy's import
        yield (), f"must be a config that Ray Serve takes: {error}"
