"""Read a sweep file, expand it, and report every problem of the file and of its trials at once."""

import itertools
import math
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from raypixel.config import load_yaml, parse
from raypixel.data import DataConfig, Manifest, Origin, SplitInfo, catalog, load_manifest
from raypixel.errors import ConfigError, DataError, RaypixelError, did_you_mean
from raypixel.experiment import check_model, load_experiment_mapping, override
from raypixel.models import model_classes
from raypixel.optimization import TrainingConfig
from raypixel.sweeps.constraints import Constraint
from raypixel.sweeps.file import IGNORED_KEYS, SweepConfig
from raypixel.sweeps.space import Parameter
from raypixel.sweeps.trials import Sweep, Trial, label_of

MAX_TRIALS = 10_000
MAX_DRAWS_PER_TRIAL = 100
NUM_PROBES = 32


def load_sweep(path: Path, overrides: Mapping[str, Any], *, is_smoke: bool = False) -> Sweep:
    """Read a sweep file and expand its trials, every one validated and its model built.

    Args:
        path: The YAML file; a `base` that is a path is relative to the current folder.
        overrides: Dotted experiment options laid over the base of every trial.
        is_smoke: Shrink every trial to a few steps on a few images.

    Raises:
        ConfigError: One line for each problem, of the file or of any trial.
    """
    mapping = load_yaml(path)
    if "model" in mapping and "parameters" not in mapping:
        raise ConfigError(f"{path}: must be a sweep, got an experiment: `raypixel train` takes it")
    ignored = [key for key in IGNORED_KEYS if key in mapping]
    warnings = tuple(f"{path}: {key} is a key of W&B's that means nothing here" for key in ignored)
    kept = {key: value for key, value in mapping.items() if key not in ignored}
    try:
        config = parse(SweepConfig, kept, where=str(path))
        base = override(_load_base(config.raypixel.base, path), overrides)
    except ConfigError as error:
        problems_beside = _problems_beside(kept, path)
        raise ConfigError(list(dict.fromkeys([*error.problems, *problems_beside]))) from None
    sweep = Sweep(config, path, base, is_smoke, warnings=warnings)
    problems = _Problems(path)
    for name, parameter in config.parameters.items():
        if name.split(".")[0] == "scaling":
            problems.add(f"parameters.{name} must be left out: raypixel.resources says it")
        elif name.startswith("data.") and parameter.is_varied and name != "data.max_train_images":
            reason = "for likelihoods of other images cannot be compared"
            problems.add(f"parameters.{name} must have one value, {reason}")
    trials = _all_trials(sweep, problems)
    sizes = _build_all(trials, problems)
    if not trials and not problems.lines:
        problems.add("raypixel.constraints must leave a configuration, none is left")
    problems.check()
    return replace(sweep, trials=tuple(trials), num_parameters=sizes)


def expected_manifest(data: DataConfig) -> Manifest | None:
    """Return the manifest of a prepared data set, or what is known of one that is not; None for foreign images."""
    try:
        return load_manifest(data.root, data.name)
    except DataError:
        pass
    for entry in catalog():
        if entry.name == data.name:
            return Manifest.model_construct(
                name=entry.name,
                format_version=1,
                image_shape=entry.image_shape,
                num_levels=entry.num_levels,
                num_classes=len(entry.class_names),
                class_names=entry.class_names,
                splits={
                    name: SplitInfo.model_construct(num_images=number, files=())
                    for name, number in entry.splits.items()
                },
                origin=Origin(source=""),
            )
    return None


def _load_base(name: str, path: Path) -> dict[str, Any]:
    try:
        return load_experiment_mapping(name)
    except ConfigError as error:
        raise ConfigError([f"{path}: raypixel.base: {line}" for line in error.problems]) from None


def _problems_beside(mapping: Mapping[str, Any], path: Path) -> list[str]:
    """Say what is wrong with the base and the parameters' names in a file that is no sweep, perhaps for other reasons.

    Values are not looked at, for there are no trials to try them in.
    """
    block, parameters = mapping.get("raypixel"), mapping.get("parameters")
    problems: list[str] = []
    if isinstance(block, dict) and isinstance(block.get("base"), str):
        try:
            _load_base(block["base"], path)
        except ConfigError as error:
            problems += error.problems
    known = {
        f"model.{name}" for kind in model_classes().values() for name in kind.Config.model_fields
    }
    known |= {f"data.{name}" for name in DataConfig.model_fields}
    known |= {f"training.{name}" for name in TrainingConfig.model_fields}
    for name, entry in parameters.items() if isinstance(parameters, dict) else ():
        is_nested = isinstance(entry, dict) and "parameters" in entry
        option = ".".join(
            str(name).split(".")[:2]
        )  # model.base.num_layers is told by its model.base
        if not is_nested and option not in known and not option.startswith("scaling."):
            rule = f"is not an option of the experiment{did_you_mean(str(name), known)}"
            problems.append(f"{path}: parameters.{name} {rule}")
    return problems


class _Problems:
    """Gather problems; one that many trials have is one line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[str, list[str]] = {}

    def add(self, text: str, label: str | None = None) -> None:
        prefix = f"{self.path}: "
        labels = self.lines.setdefault(prefix + text.removeprefix(prefix), [])
        if label is not None and label not in labels:
            labels.append(label)

    def check(self) -> None:
        """Raise if there are any."""
        texts = []
        for line, labels in self.lines.items():
            more = f" and {len(labels) - 1} more" if len(labels) > 1 else ""
            texts.append(f"{line} (trial {labels[0]}{more})" if labels else line)
        if texts:
            raise ConfigError(texts)


def _all_trials(sweep: Sweep, problems: _Problems) -> list[Trial]:
    """Expand the configurations that the constraints allow, up to the cap."""
    is_exact = sweep.config.method != "bayes"  # else examples
    cap = (sweep.run_cap or math.inf) if is_exact else math.inf
    found: dict[str, list[Trial]] = {}
    undecided: list[tuple[str, str]] = []
    known: set[str] = set()
    for parameters in _configurations(sweep):
        label = label_of(sweep.config, parameters)
        if label in found:
            continue
        try:
            trials = sweep.expand(parameters)
            known |= trials[0].options.keys()
            if not sweep.allows(trials[0]):
                continue
        except ConfigError as error:
            for problem in error.problems:
                problems.add(problem, label)
            trials = []
        except ValueError as error:
            undecided.append((str(error), label))
            trials = []
        found[label] = trials
        if len(found) > MAX_TRIALS:
            problems.add(f"must have at most {MAX_TRIALS} configurations: lower run_cap")
            break
        if len(found) >= cap:
            break
    if known and _check_names(sweep, known, problems):
        for text, label in undecided:
            problems.add(f"raypixel.constraints: {text}", label)
    return [trial for trials in found.values() for trial in trials]


def _configurations(sweep: Sweep) -> Iterator[dict[str, Any]]:
    parameters = sweep.config.parameters
    if sweep.config.method == "grid":
        for values in itertools.product(*(p.choices or [] for p in parameters.values())):
            yield dict(zip(parameters, values, strict=True))
        return
    generator = random.Random(sweep.config.raypixel.search_seed)  # noqa: S311 (not a secret)
    if sweep.config.method == "bayes":
        yield from _corners(parameters)
        number = NUM_PROBES
    else:
        number = (sweep.run_cap or 0) * MAX_DRAWS_PER_TRIAL
    for _ in range(number):
        yield {name: p.draw(_unit(generator)) for name, p in parameters.items()}


def _corners(parameters: Mapping[str, Parameter]) -> Iterator[dict[str, Any]]:
    """Yield each value and each end of a range once, with the others at their first."""
    ends = {name: p.choices or [p.draw(1e-12), p.draw(1 - 1e-12)] for name, p in parameters.items()}
    first = {name: values[0] for name, values in ends.items()}
    for name, values in ends.items():
        for value in values:
            yield {**first, name: value}


def _unit(generator: random.Random) -> float:
    """Return a number in (0, 1): the quantile of a normal distribution has no value at the ends."""
    return min(max(generator.random(), 1e-12), 1 - 1e-12)


def _build_all(trials: Iterable[Trial], problems: _Problems) -> dict[str, int]:
    """Build each distinct model once and return its parameters by label."""
    sizes: dict[str, int] = {}
    known: dict[str, int] = {}
    for trial in trials:
        key = repr((trial.config.model, trial.config.data))
        try:
            if key not in known:
                manifest = expected_manifest(trial.config.data)
                if manifest is None:
                    continue
                known[key] = check_model(trial.config, manifest)
            sizes[trial.label] = known[key]
        except RaypixelError as error:
            for problem in error.problems:
                problems.add(problem, trial.configuration)
    return sizes


def _check_names(sweep: Sweep, known: set[str], problems: _Problems) -> bool:
    """Refuse constraints and references that speak of options which no trial has; return whether there are none."""
    block = sweep.config.raypixel
    asked = [("constraints", Constraint(text).names) for text in block.constraints]
    for entry in block.reference.values if block.reference else ():
        asked.append(("reference", set(entry.at)))
    unknown = [(where, name) for where, names in asked for name in sorted(names - known)]
    for where, name in unknown:
        problems.add(f"raypixel.{where}: {name} is not an option of the experiment")
    return not unknown
