"""The ranking of a sweep's configurations, from what its ledger says of each trial."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, stdev

from raypixel.sweeps.ledger import TrialEntry

DIGITS = {"val/bits_per_dim": 4, "val/nll_nats": 2}
"""Decimals that a sweep's metric is shown with."""


@dataclass(frozen=True)
class Spread:
    """A value over the seeds of a configuration.

    Attributes:
        mean: Over the seeds.
        deviation: Sample standard deviation, None for one seed.
        count: Seeds that have a value.
    """

    mean: float
    deviation: float | None
    count: int

    def describe(self, digits: int) -> str:
        """Write the mean, with the standard deviation where there are several values."""
        text = f"{self.mean:.{digits}f}"
        return text if self.deviation is None else f"{text} ± {self.deviation:.{digits}f}"


@dataclass(frozen=True)
class RankedConfiguration:
    """The trials of one configuration.

    Attributes:
        label: What they share.
        entries: One for each seed.
        metric: Name of the sweep's metric.
    """

    label: str
    entries: list[TrialEntry]
    metric: str

    @property
    def val(self) -> Spread | None:
        """The sweep's metric, None if no trial has one."""
        return _spread(entry.value(self.metric) for entry in self.entries)

    @property
    def test(self) -> Spread | None:
        """The sweep's metric on the test split, None if no trial is done."""
        name = self.metric.partition("/")[2]
        return _spread(entry.test[name] if entry.test else None for entry in self.entries)

    @property
    def error(self) -> str | None:
        """The error of a trial that failed."""
        return next((entry.error for entry in self.entries if entry.error), None)

    @property
    def best(self) -> TrialEntry:
        """The trial with the lowest metric."""
        return min(self.entries, key=lambda entry: _order(entry.value(self.metric)))


def rank(entries: Iterable[TrialEntry], metric: str) -> list[RankedConfiguration]:
    """Return the configurations of trials, the lowest mean of the metric first, those without one last."""
    groups: dict[str, list[TrialEntry]] = {}
    for entry in entries:
        groups.setdefault(entry.configuration, []).append(entry)
    made = [RankedConfiguration(label, group, metric) for label, group in groups.items()]
    return sorted(made, key=lambda each: _order(each.val.mean if each.val else None))


def _spread(values: Iterable[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Spread(fmean(known), stdev(known) if len(known) > 1 else None, len(known))


def _order(value: float | None) -> float:
    return float("inf") if value is None else value
