"""An experiment: model, data, training and scaling in one frozen object, from a recipe or a YAML file.

A packaged recipe is named (`mnist_pixelcnn`); anything with a slash or ending in .yaml is a path. A file may start from
another with `base: NAME_OR_PATH` and say only what differs.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from raypixel.config import Frozen, apply_overrides, load_yaml, parse, parse_yaml
from raypixel.data import DataConfig, Manifest, num_levels_of
from raypixel.errors import ConfigError
from raypixel.models import (
    ModelConfig,
    PixelModel,
    build_model,
    model_classes,
    validate_model_config,
)
from raypixel.models.size import num_parameters
from raypixel.optimization import TrainingConfig
from raypixel.recipes import recipe_text

_BYTES_PER_PARAMETER = 12
"""At least, while it is trained: its value, its gradient and a moment of the optimizer."""


def _num_workers(value: Any) -> Any:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if is_number and value >= 0:
        return value
    if isinstance(value, list | tuple) and len(value) == 2:
        least, most = value
        are_numbers = all(isinstance(n, int) and not isinstance(n, bool) for n in value)
        if are_numbers and 1 <= least <= most:
            return (least, most)
    raise ValueError(
        f"must be a number of workers, or [least, most] with 1 <= least <= most, got {value!r}"
    )


class ScalingConfig(Frozen):
    """How a training is spread over machines."""

    num_workers: Annotated[int | tuple[int, int], BeforeValidator(_num_workers)] = 1
    """Data-parallel processes under Ray Train; [1, 4] takes as many as there is room for, also while machines come
    and go; 0 trains inside the calling process, without Ray."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where each worker computes; auto takes a GPU where there is one."""
    cpus_per_worker: float | None = Field(None, ge=1)
    """CPUs, and threads, of each worker; by default the cluster's CPUs are shared evenly."""
    gpus_per_worker: float = Field(1.0, gt=0)
    """GPUs that Ray sets aside for each worker on CUDA."""
    max_failures: int = Field(3, ge=0)
    """How often Ray Train restarts the workers from the newest checkpoint after one died; a machine that was announced
    to go does not count."""
    resize_seconds: float = Field(60.0, gt=0)
    """How often a training of [least, most] workers looks whether it can have more."""

    @property
    def min_workers(self) -> int:
        """Fewest workers to train with."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]

    @property
    def max_workers(self) -> int:
        """Most workers to train with."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]


class ExperimentConfig(Frozen):
    """Everything that determines a training."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the experiment; runs/NAME holds what it produces."""
    description: str = ""
    """What it reproduces, with the source."""
    model: Annotated[SerializeAsAny[ModelConfig], BeforeValidator(validate_model_config)]
    """Architecture; `raypixel models` lists the options of each kind."""
    data: DataConfig
    """Data set and its levels."""
    training: TrainingConfig = TrainingConfig()
    """Optimizer, schedule, length."""
    scaling: ScalingConfig = ScalingConfig()
    """Workers and devices."""

    def to_mapping(self) -> dict[str, Any]:
        """Return plain values that `parse_experiment` reads back to an equal object."""
        return self.model_dump(mode="json")


def relevant_options(config: ExperimentConfig) -> dict[str, Any]:
    """Return the options that determine the result: model, data and training, but not how long or where."""
    mapping = config.to_mapping()
    relevant = {key: mapping[key] for key in ("model", "data", "training")}
    for key in ("num_epochs", "max_steps", "max_minutes", "checkpoint_every_minutes"):
        del relevant["training"][key]
    del relevant["data"]["root"]
    if relevant["data"]["backend"] != "stream":  # which has an order of its own
        del relevant["data"]["backend"], relevant["data"]["stream_memory_mib"]
    return relevant


def build_experiment_model(config: ExperimentConfig, manifest: Manifest) -> PixelModel:
    """Build the untrained model of an experiment for a prepared data set; see `build_model`.

    Raises:
        ConfigError: The options do not fit the images, or this machine has no memory to train it.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    check_model(config, manifest, most=memory // _BYTES_PER_PARAMETER)
    return build_model(
        config.model,
        image_shape=manifest.image_shape,
        num_levels=num_levels_of(config.data, manifest),
        num_classes=manifest.num_classes,
    )


def check_model(config: ExperimentConfig, manifest: Manifest, *, most: int | None = None) -> int:
    """Return how many parameters an experiment's model has, without memory for its weights.

    Raises:
        ConfigError: The options do not fit the images, or it has more than `most`.
    """
    return num_parameters(
        config.model,
        image_shape=manifest.image_shape,
        num_levels=num_levels_of(config.data, manifest),
        num_classes=manifest.num_classes,
        most=most,
    )


def load_experiment(
    recipe_or_path: str, overrides: Mapping[str, Any] | None = None
) -> ExperimentConfig:
    """Read an experiment and apply dotted overrides.

    Raises:
        ConfigError: One line for each problem, naming the recipe or file.
    """
    mapping = override(load_experiment_mapping(recipe_or_path), overrides or {})
    return parse_experiment(mapping, where=recipe_or_path)


def override(mapping: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Lay dotted options over an experiment; another `model.kind` drops options that only the old kind has."""
    changed = apply_overrides(mapping, overrides)
    return {**changed, "model": _fitting(mapping.get("model"), changed.get("model"), overrides)}


def parse_experiment(mapping: Mapping[str, Any], *, where: str) -> ExperimentConfig:
    """Build an experiment from plain values, naming their origin in errors."""
    return parse(ExperimentConfig, mapping, where=where)


def load_experiment_mapping(recipe_or_path: str, *, _seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read the plain values of a recipe or file, laid over those of its `base`.

    Raises:
        ConfigError: A file is missing, is not YAML, or is its own base.
    """
    if recipe_or_path in _seen:
        raise ConfigError(f"{recipe_or_path}: base must not lead back to itself")
    if "/" in recipe_or_path or recipe_or_path.endswith((".yaml", ".yml")):
        mapping = load_yaml(Path(recipe_or_path))
        if "parameters" in mapping and "model" not in mapping:
            rule = "must be an experiment, got a sweep: `raypixel sweep` takes it"
            raise ConfigError(f"{recipe_or_path}: {rule}")
        default = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(recipe_or_path).stem).lstrip("._-")
    else:
        mapping = parse_yaml(recipe_text(recipe_or_path), where=recipe_or_path)
        default = recipe_or_path
    base = mapping.pop("base", None)
    if base is None:
        mapping.setdefault("name", default)
        return mapping
    base_mapping = load_experiment_mapping(str(base), _seen=(*_seen, recipe_or_path))
    merged = _merge(base_mapping, mapping)
    given = {f"model.{name}": value for name, value in (mapping.get("model") or {}).items()}
    return {**merged, "model": _fitting(base_mapping.get("model"), merged.get("model"), given)}


def _fitting(before: Any, after: Any, given: Mapping[str, Any]) -> Any:
    if not isinstance(before, dict) or not isinstance(after, dict):
        return after
    model_class = model_classes().get(str(after.get("kind")))
    if model_class is None or before.get("kind") == after.get("kind"):
        return after
    known = model_class.Config.model_fields
    return {k: v for k, v in after.items() if k in known or f"model.{k}" in given}


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = (
            _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
        )
    return merged
