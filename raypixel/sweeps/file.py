"""The sweep file: which experiment, which options vary, what is compared. The words are those of W&B's sweeps.

name: quickstart
method: grid
metric: {name: val/bits_per_dim, goal: minimize}
parameters:
  model.hidden_size: {values: [16, 32]}
raypixel:
  base: digits_pixelcnn
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from raypixel.config import ConfigProblems, Frozen
from raypixel.sweeps.constraints import Constraint
from raypixel.sweeps.space import Parameter, Value

IGNORED_KEYS = ("program", "command", "entity", "project")
"""W&B's keys that mean nothing here."""

DEFAULT_ETA = 3


class Metric(Frozen):
    """What trials are ranked by."""

    name: Literal["val/bits_per_dim", "val/nll_nats"] = "val/bits_per_dim"
    """A validation metric; the test split is reported and never chosen by."""
    goal: Literal["minimize"] = "minimize"
    """Likelihoods are minimized."""
    target: float | None = None
    """No new trial starts once one has reached this."""


class EarlyTerminate(Frozen):
    """Stop trials that are behind others at the same epoch: Tune's ASHA."""

    type: Literal["hyperband"]
    """The only type."""
    min_iter: int | None = Field(None, ge=1)
    """Epochs before the first trials are stopped."""
    max_iter: int | None = Field(None, ge=1)
    """Epochs after which a trial is over; by default those of the base experiment."""
    s: int | None = Field(None, ge=1)
    """With `min_iter`: number of brackets, each of which starts stopping `eta` times later than the one before.
    Without: trials are first stopped after max_iter / eta^s epochs."""
    eta: int = Field(DEFAULT_ETA, ge=2)
    """One in `eta` trials goes on at each rung, and rungs are a factor of `eta` apart."""

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.min_iter is None and (self.max_iter is None or self.s is None):
            raise ValueError("must have `min_iter`, or `max_iter` and `s`")
        if self.min_iter and self.max_iter and self.min_iter > self.max_iter:
            raise ValueError(
                f"min_iter must not be above max_iter, got {self.min_iter} and {self.max_iter}"
            )
        return self

    @property
    def num_brackets(self) -> int:
        """Brackets of ASHA."""
        return self.s or 1 if self.min_iter is not None else 1

    @property
    def first_rung(self) -> int:
        """Epochs before the first trials are stopped."""
        if self.min_iter is not None:
            return self.min_iter
        assert self.max_iter is not None
        assert self.s is not None
        return max(1, self.max_iter // self.eta**self.s)


class Resources(Frozen):
    """What each trial computes on."""

    workers: int = Field(1, ge=1)
    """Data-parallel workers; one trains inside the trial's own process, several under Ray Train."""
    cpus_per_worker: int = Field(1, ge=1)
    """CPUs, and threads, of each worker."""
    gpus_per_worker: float | None = Field(None, ge=0)
    """GPUs, or a fraction of one, of each worker; by default 1 where the cluster has any."""


class ReferenceValue(Frozen):
    """A published value and the configuration that it belongs to."""

    at: dict[str, Value]
    """Options by dotted name; those not named may have any value."""
    value: float
    """The number."""


class Reference(Frozen):
    """Published values, shown beside ours."""

    source: str
    """Document and table."""
    unit: str
    """Of the values, with the data set and split where they are not the sweep's own."""
    values: list[ReferenceValue] = Field(min_length=1)
    """One for each published configuration."""

    def value_at(self, options: Mapping[str, Any]) -> float | None:
        """Return the published value of a trial's options, by dotted name."""
        for entry in self.values:
            if all(name in options and options[name] == v for name, v in entry.at.items()):
                return entry.value
        return None


def _readable(text: str) -> str:
    Constraint(text)
    return text


class RaypixelBlock(Frozen):
    """What W&B has no word for."""

    base: str
    """Recipe name or path of the experiment that the parameters change."""
    seeds: list[int] | None = Field(None, min_length=1)
    """Values of training.seed, each configuration is trained with all of them."""
    search_seed: int = 0
    """Seed of the draws of random and bayes."""
    resources: Resources = Resources()
    """What each trial computes on."""
    max_concurrent: int | None = Field(None, ge=1)
    """Trials at the same time; by default as many as the cluster's resources allow."""
    max_retries: int = Field(1, ge=0)
    """How often a trial whose process died or raised is continued from its newest checkpoint."""
    scheduler: Literal["median", "pbt"] | None = None
    """`median` stops a trial below the median of the others; `pbt` copies the best and perturbs its parameters."""
    time_budget_s: float | None = Field(None, gt=0)
    """Stop all trials after this time."""
    constraints: list[Annotated[str, AfterValidator(_readable)]] = Field([])
    """Conditions that each configuration must meet, such as `model.num_layers >= 2 or not model.use_residual`."""
    num_samples: int = Field(0, ge=0)
    """Images drawn from the best checkpoint of each trial, to time sampling."""
    reference: Reference | None = None
    """Published values."""


def _dotted(parameters: object) -> object:
    """Lay nested parameters, `training: {parameters: {learning_rate: ...}}`, out flat."""
    if not isinstance(parameters, dict):
        return parameters
    flat: dict[str, Any] = {}
    problems: list[tuple[tuple[str, ...], str]] = []
    for name, entry in parameters.items():
        inner = entry.get("parameters") if isinstance(entry, dict) else None
        laid_out = {str(name): entry}
        if inner is not None:
            beside = sorted(set(entry) - {"parameters"})
            if beside or not isinstance(inner, dict):
                problems.append(((str(name),), "must have nothing but a mapping `parameters`"))
                continue
            nested = _dotted(inner)
            assert isinstance(nested, dict)
            laid_out = {f"{name}.{key}": value for key, value in nested.items()}
        for key, value in laid_out.items():
            if key in flat:
                problems.append(((key,), "must be given once, got it dotted and nested"))
            flat[key] = value
    if problems:
        raise ConfigProblems(problems)
    return flat


class SweepConfig(Frozen):
    """One sweep."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name; runs/NAME holds what it produces."""
    description: str = ""
    """What it shows, with the source."""
    method: Literal["grid", "random", "bayes"] = "grid"
    """Every combination of the values; draws; or draws that learn from earlier trials (Optuna's TPE)."""
    metric: Metric = Metric()
    """What trials are ranked by."""
    parameters: Annotated[dict[str, Parameter], BeforeValidator(_dotted)] = Field(min_length=1)
    """Dotted options of the experiment and their values."""
    early_terminate: EarlyTerminate | None = None
    """Stop trials that are behind."""
    run_cap: int | None = Field(None, ge=1)
    """Largest number of configurations."""
    raypixel: RaypixelBlock
    """Base experiment, seeds and resources."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = [*self._method_problems(), *self._block_problems()]
        if problems:
            raise ConfigProblems(problems)
        return self

    def _method_problems(self) -> list[tuple[tuple[str, ...], str]]:
        problems: list[tuple[tuple[str, ...], str]] = []
        for name, parameter in self.parameters.items():
            at = ("parameters", name)
            if self.method == "grid" and parameter.choices is None:
                problems.append((at, "must have `values` under method grid, got a range"))
            if self.method != "random" and parameter.probabilities is not None:
                problems.append((at, f"must not have probabilities under method {self.method}"))
            if self.method == "bayes" and parameter.choices is None and parameter.range is None:
                problems.append(
                    (at, f"must be uniform or log-uniform under method bayes, got {parameter.kind}")
                )
        if self.method != "grid" and self.run_cap is None:
            problems.append((("run_cap",), f"must be given under method {self.method}"))
        return problems

    def _block_problems(self) -> list[tuple[tuple[str, ...], str]]:
        block = self.raypixel
        problems: list[tuple[tuple[str, ...], str]] = []
        if block.scheduler is not None and self.early_terminate is not None:
            rule = f"must be left out beside early_terminate, got {block.scheduler!r}"
            problems.append((("raypixel", "scheduler"), rule))
        if block.seeds is not None and "training.seed" in self.parameters:
            rule = "must be left out where raypixel.seeds gives the seeds"
            problems.append((("parameters", "training.seed"), rule))
        if block.seeds is not None and len(set(block.seeds)) < len(block.seeds):
            problems.append((("raypixel", "seeds"), f"must differ, got {block.seeds}"))
        if block.scheduler == "pbt":
            problems += self._pbt_problems()
        return problems

    def _pbt_problems(self) -> list[tuple[tuple[str, ...], str]]:
        problems: list[tuple[tuple[str, ...], str]] = []
        at = ("raypixel", "scheduler")
        if self.method != "random":
            problems.append((at, f"pbt must have method random, got {self.method}"))
        if self.raypixel.resources.workers > 1:
            problems.append((at, "pbt must have trials of one worker"))
        for name, parameter in self.parameters.items():
            if parameter.is_varied and not name.startswith("training."):
                rule = "must be an option of the training under pbt, for weights are copied between trials"
                problems.append((("parameters", name), rule))
        return problems


def varied(sweep: SweepConfig) -> list[str]:
    """Return the names of the options in which trials can differ, in the file's order."""
    return [name for name, parameter in sweep.parameters.items() if parameter.is_varied]
