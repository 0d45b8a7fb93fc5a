"""The sweep file: which experiment, which options vary, what is compared. The words are those of W&B's sweeps.

name: quickstart
method: grid
metric: {name: val/bits_per_dim, goal: minimize}
parameters:
  model.hidden_size: {values: [16, 32]}
raypixel:
  base: digits_pixelcnn
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from raypixel.config import Frozen, load_yaml, parse
from raypixel.errors import ConfigError
from raypixel.experiment import (
    ExperimentConfig,
    load_experiment_mapping,
    override,
    parse_experiment,
)

_NOT_SWEPT = {
    "data": "for likelihoods of other images cannot be compared",
    "scaling": "for each trial runs as raypixel.cpus_per_trial says",
}

Value = bool | int | float | str | None


class Metric(Frozen):
    """What trials are ranked by."""

    name: Literal["val/bits_per_dim", "val/nll_nats"] = "val/bits_per_dim"
    """A validation metric; the test split is reported and never chosen by."""
    goal: Literal["minimize"] = "minimize"
    """Likelihoods are minimized."""


class Parameter(Frozen):
    """The values of one option."""

    value: Value = None
    """One value, the same in every trial."""
    values: list[Value] | None = Field(None, min_length=1)
    """The values of the grid."""

    @model_validator(mode="after")
    def _one_of_two(self) -> "Parameter":
        if ("value" in self.model_fields_set) == (self.values is not None):
            raise ValueError("must have either `value` or `values`")
        if len({str(value) for value in self.choices}) < len(self.choices):
            raise ValueError(f"values must differ, got {self.choices}")
        return self

    @property
    def choices(self) -> list[Value]:
        """All values."""
        return [self.value] if self.values is None else list(self.values)


class RaypixelBlock(Frozen):
    """What W&B has no word for."""

    base: str
    """Recipe name or path of the experiment that the parameters change."""
    cpus_per_trial: int = Field(1, ge=1)
    """CPUs, and threads, of each trial."""
    gpus_per_trial: float = Field(0.0, ge=0)
    """GPU or fraction of one for each trial."""
    max_retries: int = Field(1, ge=0)
    """How often a failed trial is tried again."""


class SweepConfig(Frozen):
    """One sweep."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name; runs/NAME holds what it produces."""
    description: str = ""
    """What it shows, with the source."""
    method: Literal["grid"] = "grid"
    """Every combination of the values."""
    metric: Metric = Metric()
    """What trials are ranked by."""
    parameters: dict[str, Parameter] = Field(min_length=1)
    """Dotted options of the experiment and their values."""
    raypixel: RaypixelBlock
    """Base experiment and resources."""


@dataclass(frozen=True)
class Trial:
    """One configuration of a sweep.

    Attributes:
        label: Short and unique, such as `hidden_size=16 use_residual=true`.
        parameters: The varied options by dotted name.
        config: The whole experiment.
    """

    label: str
    parameters: Mapping[str, Any]
    config: ExperimentConfig


def load_sweep(path: Path, overrides: Mapping[str, Any]) -> tuple[SweepConfig, list[Trial]]:
    """Read a sweep file and expand its trials, every one validated.

    Args:
        path: The YAML file; a `base` that is a path is relative to the current folder.
        overrides: Dotted experiment options laid over the base of every trial.

    Raises:
        ConfigError: One line for each problem, of the file or of any trial.
    """
    sweep = parse(SweepConfig, load_yaml(path), where=str(path))
    base = override(load_experiment_mapping(sweep.raypixel.base), overrides)
    trials: list[Trial] = []
    problems = [
        f"{path}: parameters.{name} must be an option of the model or the training, {reason}"
        for name in sweep.parameters
        for prefix, reason in _NOT_SWEPT.items()
        if name.partition(".")[0] == prefix and name != "data.max_train_images"
    ]
    names = list(sweep.parameters)
    for values in itertools.product(*(sweep.parameters[name].choices for name in names)):
        parameters = dict(zip(names, values, strict=True))
        label = _label(sweep, parameters)
        try:
            mapping = override(base, parameters)
            config = parse_experiment({**mapping, "name": sweep.name}, where=str(path))
        except ConfigError as error:
            problems += [f"{problem} (trial {label})" for problem in error.problems]
            continue
        trials.append(Trial(label, parameters, config))
    if problems:
        raise ConfigError(problems)
    return sweep, trials


def _label(sweep: SweepConfig, parameters: Mapping[str, Any]) -> str:
    varied = {n: v for n, v in parameters.items() if len(sweep.parameters[n].choices) > 1}
    shown = varied or parameters
    last = [name.rpartition(".")[2] for name in shown]
    words = []
    for (name, value), short in zip(shown.items(), last, strict=True):
        text = str(value).lower() if isinstance(value, bool) else str(value)
        words.append(f"{short if last.count(short) == 1 else name}={text}")
    return " ".join(words)
