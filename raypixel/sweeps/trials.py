"""A sweep and its trials: each trial is a whole experiment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raypixel.config import flatten
from raypixel.experiment import ExperimentConfig, override, parse_experiment
from raypixel.sweeps.constraints import Constraint
from raypixel.sweeps.file import SweepConfig, varied

SMOKE = {
    "training.num_epochs": 1,
    "training.max_steps": 2,
    "training.batch_size": 4,
    "training.eval_batch_size": 4,
    "data.max_train_images": 8,
    "data.max_eval_images": 4,
}
SMOKE_RUN_CAP = 4


@dataclass(frozen=True)
class Trial:
    """One configuration of a sweep with one seed.

    Attributes:
        label: Short and unique, such as `hidden_size=16 use_residual=true seed=0`.
        configuration: The label without the seed: what the trials of one configuration share.
        parameters: The options of the file by dotted name.
        config: The whole experiment.
    """

    label: str
    configuration: str
    parameters: Mapping[str, Any]
    config: ExperimentConfig

    @property
    def seed(self) -> int:
        """The seed of the training."""
        return self.config.training.seed

    @property
    def options(self) -> dict[str, Any]:
        """All options of the experiment by dotted name."""
        return flatten(self.config.to_mapping())


@dataclass(frozen=True)
class Sweep:
    """A sweep file and all that follows from it.

    Attributes:
        config: What the file says.
        path: The file.
        base: The experiment that the parameters change, as a mapping.
        is_smoke: Whether every trial is shrunk to seconds.
        trials: All of them; under method bayes examples of what may be tried.
        num_parameters: Parameters of each trial's model by label; empty where the data set is not known yet.
        warnings: Lines for the user.
    """

    config: SweepConfig
    path: Path
    base: Mapping[str, Any]
    is_smoke: bool = False
    trials: tuple[Trial, ...] = ()
    num_parameters: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def seeds(self) -> list[int] | None:
        """The seeds of each configuration, or None for that of the base."""
        seeds = self.config.raypixel.seeds
        return seeds[:1] if seeds and self.is_smoke else seeds

    @property
    def run_cap(self) -> int | None:
        """Largest number of configurations."""
        cap = self.config.run_cap
        is_drawn = self.config.method != "grid"
        return min(cap, SMOKE_RUN_CAP) if cap and self.is_smoke and is_drawn else cap

    @property
    def num_trials(self) -> int:
        """Trials of the sweep, at most."""
        if self.config.method != "bayes":
            return len(self.trials)
        return (self.run_cap or 0) * len(self.seeds or [0])

    def expand(self, parameters: Mapping[str, Any]) -> list[Trial]:
        """Return the trials of one configuration, one for each seed.

        Raises:
            ConfigError: It is not a valid experiment.
        """
        configuration = label_of(self.config, parameters)
        changed = override(self.base, parameters)
        if self.is_smoke:
            changed = override(changed, SMOKE)
        trials = []
        seeds: list[int] | list[None] = self.seeds or [None]
        for seed in seeds:
            mapping, label = changed, configuration
            if seed is not None:
                mapping = override(changed, {"training.seed": seed})
                label = f"{configuration} seed={seed}"
            config = parse_experiment(
                {**mapping, "name": self.config.name, "scaling": self._scaling()},
                where=str(self.path),
            )
            trials.append(Trial(label, configuration, dict(parameters), config))
        return trials

    def allows(self, trial: Trial) -> bool:
        """Return whether a trial meets the constraints.

        Raises:
            ValueError: A constraint cannot be decided.
        """
        options = trial.options
        return all(Constraint(text).holds(options) for text in self.config.raypixel.constraints)

    def _scaling(self) -> dict[str, Any]:
        resources = self.config.raypixel.resources
        gpus = resources.gpus_per_worker
        return {
            "num_workers": resources.workers,
            "cpus_per_worker": float(resources.cpus_per_worker),
            "device": "auto" if gpus is None else "cuda" if gpus else "cpu",
            **({"gpus_per_worker": gpus} if gpus else {}),
        }


def label_of(sweep: SweepConfig, parameters: Mapping[str, Any]) -> str:
    """Name a configuration by the options in which those of the sweep differ."""
    names = varied(sweep)
    shown = {n: v for n, v in parameters.items() if n in names} or parameters
    last = [name.rpartition(".")[2] for name in shown]
    words = []
    for (name, value), short in zip(shown.items(), last, strict=True):
        words.append(f"{short if last.count(short) == 1 else name}={_word(value)}")
    return " ".join(words)


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.5g}" if isinstance(value, float) and value != round(value, 4) else str(value)
