"""Which trial is next: the planned ones in their order, or what Optuna makes of the results so far."""

from collections import deque
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any, Protocol

from raypixel.errors import ConfigError
from raypixel.sweeps.space import Parameter
from raypixel.sweeps.trials import Sweep, Trial

MAX_ASKS = 200


class Search(Protocol):
    """A source of trials."""

    @property
    def is_over(self) -> bool:
        """Whether there is no further trial."""
        ...

    def next(self) -> Trial | None:
        """Return a trial to start, or None where there is none."""
        ...

    def tell(self, trial: Trial, value: float | None) -> None:
        """Take the metric of a trial that ended, None if it failed."""
        ...


def open_search(
    sweep: Sweep,
    finished: Iterable[tuple[Trial, float | None]] = (),
    started: Iterable[Trial] = (),
) -> Search:
    """Return the search of a sweep.

    Args:
        sweep: The sweep.
        finished: Trials that ended before it was resumed, with their metric or None; they are not handed out again.
        started: Trials that were begun and have not ended.
    """
    if sweep.config.method == "bayes":
        return _Bayes(sweep, list(finished), list(started))
    done = {trial.label for trial, _ in finished}
    return _Planned([trial for trial in sweep.trials if trial.label not in done])


class _Planned:
    """Hand out trials in their order."""

    def __init__(self, trials: Iterable[Trial]) -> None:
        self._waiting = deque(trials)

    @property
    def is_over(self) -> bool:
        return not self._waiting

    def next(self) -> Trial | None:
        return self._waiting.popleft() if self._waiting else None

    def tell(self, trial: Trial, value: float | None) -> None:
        del trial, value


class _Bayes:
    """Ask Optuna's TPE for configurations; the seeds of one are one value to it, their mean."""

    def __init__(
        self, sweep: Sweep, finished: list[tuple[Trial, float | None]], started: list[Trial]
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._sweep = sweep
        self._space = {name: _optuna_range(p) for name, p in sweep.config.parameters.items()}
        seed = sweep.config.raypixel.search_seed + len(
            finished
        )  # a resumed search does not repeat itself
        self._study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        self._waiting: deque[Trial] = deque()
        self._open: dict[str, _Configuration] = {}
        self._seen: set[str] = set()
        self._is_exhausted = False
        self._recall(finished, started)

    @property
    def is_over(self) -> bool:
        used_up = self._is_exhausted or len(self._seen) >= (self._sweep.run_cap or 0)
        return used_up and not self._waiting

    def next(self) -> Trial | None:
        if not self._waiting and not self.is_over:
            self._ask()
        return self._waiting.popleft() if self._waiting else None

    def tell(self, trial: Trial, value: float | None) -> None:
        configuration = self._open[trial.configuration]
        configuration.values[trial.label] = value
        if len(configuration.values) < configuration.num_trials:
            return
        del self._open[trial.configuration]
        values = [value for value in configuration.values.values() if value is not None]
        if values:
            self._study.tell(configuration.asked, fmean(values))
        else:
            self._refuse(configuration.asked)

    def _ask(self) -> None:
        for _ in range(MAX_ASKS):
            asked = self._study.ask(self._space)
            parameters = {
                name: _value(parameter, asked.params[name])
                for name, parameter in self._sweep.config.parameters.items()
            }
            trials = self._expand(parameters)
            if trials:
                self._open_configuration(trials, asked)
                self._waiting.extend(trials)
                return
            self._refuse(asked)
        self._is_exhausted = True  # a small space of which all was tried

    def _expand(self, parameters: Mapping[str, Any]) -> list[Trial]:
        """Return the trials of a configuration that is new, valid and allowed, or none."""
        try:
            trials = self._sweep.expand(parameters)
        except ConfigError:
            return []
        is_new = trials[0].configuration not in self._seen
        return trials if is_new and self._sweep.allows(trials[0]) else []

    def _open_configuration(self, trials: list[Trial], asked: Any) -> None:
        self._seen.add(trials[0].configuration)
        self._open[trials[0].configuration] = _Configuration(len(trials), asked)

    def _refuse(self, asked: Any) -> None:
        import optuna

        self._study.tell(asked, state=optuna.trial.TrialState.FAIL)

    def _recall(self, finished: list[tuple[Trial, float | None]], started: list[Trial]) -> None:
        """Take up configurations that were begun before: their trials that have not ended are first."""
        by_label = {trial.label: value for trial, value in finished}
        begun = [*(trial for trial, _ in finished), *started]
        parameters = {trial.configuration: trial.parameters for trial in begun}
        for known in parameters.values():
            self._study.enqueue_trial(
                {name: value for name, value in known.items() if name in self._space}
            )
            asked = self._study.ask(self._space)
            trials = self._sweep.expand(known)
            self._open_configuration(trials, asked)
            for trial in trials:
                if trial.label in by_label:
                    self.tell(trial, by_label[trial.label])
                else:
                    self._waiting.append(trial)


class _Configuration:
    """A configuration of which trials run.

    Attributes:
        num_trials: Its trials, one for each seed.
        asked: Optuna's trial.
        values: What the trials that ended reached.
    """

    def __init__(self, num_trials: int, asked: Any) -> None:
        self.num_trials = num_trials
        self.asked = asked
        self.values: dict[str, float | None] = {}


def _optuna_range(parameter: Parameter) -> Any:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if parameter.choices is not None:
        return CategoricalDistribution(parameter.choices)
    covered = parameter.range
    assert covered is not None
    if covered.is_int:
        return IntDistribution(int(covered.low), int(covered.high))
    return FloatDistribution(covered.low, covered.high, log=covered.is_log)


def _value(parameter: Parameter, proposed: Any) -> Any:
    return proposed if parameter.choices is not None else parameter.rounded(proposed)
