"""The values of one swept option: a list, or a distribution in W&B's words.

Every distribution is a function of one uniform number, so a draw needs nothing but a seeded generator and tests can
walk through the quantiles.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, Self

from pydantic import Field, model_validator

from raypixel.config import Frozen

Value = bool | int | float | str | None

Distribution = Literal[
    "constant",
    "categorical",
    "int_uniform",
    "uniform",
    "q_uniform",
    "log_uniform",
    "log_uniform_values",
    "q_log_uniform",
    "q_log_uniform_values",
    "normal",
    "q_normal",
    "log_normal",
    "q_log_normal",
]

_GAUSSIAN = ("normal", "q_normal", "log_normal", "q_log_normal")


@dataclass(frozen=True)
class Range:
    """What a uniform distribution covers, for a search that proposes values itself.

    Attributes:
        low: Smallest value.
        high: Largest value.
        is_log: Whether the logarithm is uniform.
        is_int: Whether only whole numbers are meant.
    """

    low: float
    high: float
    is_log: bool
    is_int: bool


class Parameter(Frozen):
    """The values of one option; without `distribution`, what is given tells which it is."""

    distribution: Distribution | None = None
    """How values are drawn; by default `int_uniform` between whole numbers and `uniform` between others."""
    value: Value = None
    """One value, the same in every trial."""
    values: list[Value] | None = Field(None, min_length=1)
    """Values to choose from; all of them in a grid."""
    probabilities: list[float] | None = None
    """Probability of each of `values`, under method random."""
    min: int | float | None = None
    """Smallest value; an exponent of e under `log_uniform`."""
    max: int | float | None = None
    """Largest value; an exponent of e under `log_uniform`."""
    q: int | float | None = Field(None, gt=0)
    """Values are rounded to multiples of this under the `q_` distributions."""
    mu: float | None = None
    """Mean of a normal distribution, or of the logarithm of a log-normal one; 0 by default."""
    sigma: float | None = Field(None, gt=0)
    """Standard deviation that belongs to `mu`; 1 by default."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = self.model_fields_set - {"distribution", "probabilities"}
        for needed, allowed in _SHAPES[self._shape]:
            if needed <= given <= allowed:
                break
        else:
            raise ValueError(f"must have {_WORDS[self._shape]}, got {', '.join(sorted(given))}")
        if self.values is not None:
            self._check_values(self.values)
        elif self.probabilities is not None:
            raise ValueError("must have `values` beside `probabilities`")
        if self.min is not None and self.max is not None:
            self._check_range(self.min, self.max)
        return self

    @property
    def kind(self) -> str:
        """The distribution, also where the file leaves it to what is given."""
        if self.distribution is not None:
            return self.distribution
        if self.values is not None:
            return "categorical"
        if self.min is not None or self.max is not None:
            is_int = isinstance(self.min, int) and isinstance(self.max, int)
            return ("q_uniform" if self.q else "int_uniform") if is_int else self._float_kind
        return "constant"

    @property
    def choices(self) -> list[Value] | None:
        """All values, or None for a range."""
        if self.kind == "constant":
            return [self.value]
        return None if self.values is None else list(self.values)

    @property
    def is_varied(self) -> bool:
        """Whether two trials can differ in it."""
        return self.choices is None or len(self.choices) > 1

    @property
    def range(self) -> Range | None:
        """What a uniform distribution covers; None for the others."""
        if self.min is None or self.max is None:
            return None
        low, high = float(self.min), float(self.max)
        if self.kind in ("log_uniform", "q_log_uniform"):
            low, high = math.exp(low), math.exp(high)
        return Range(low, high, "log_uniform" in self.kind, self.kind == "int_uniform")

    def draw(self, u: float) -> Value:
        """Return the value at a quantile.

        Args:
            u: In (0, 1), uniform for a draw.
        """
        if self.choices is not None:
            return self._choose(u, self.choices)
        if self.kind in _GAUSSIAN:
            drawn = NormalDist(self.mu or 0.0, self.sigma or 1.0).inv_cdf(u)
            return self.rounded(math.exp(drawn) if "log" in self.kind else drawn)
        covered = self.range
        assert covered is not None
        if covered.is_int:
            return min(int(covered.high), int(covered.low + u * (covered.high - covered.low + 1)))
        if covered.is_log:
            ratio = covered.high / covered.low
            return self.rounded(covered.low * ratio**u)
        return self.rounded(covered.low + u * (covered.high - covered.low))

    def rounded(self, value: float) -> int | float:
        """Return a value as the distribution gives it: a multiple of `q`, whole where all its numbers are."""
        if self.kind == "int_uniform":
            return round(value)
        if self.q is None:
            return value
        multiple = round(value / self.q) * self.q
        if isinstance(self.q, int):
            return int(multiple)
        return float(f"{multiple:.12g}")  # 0.3, not 0.30000000000000004

    @property
    def _float_kind(self) -> str:
        return "q_uniform" if self.q else "uniform"

    @property
    def _shape(self) -> str:
        if self.distribution is None:
            return "any"
        if self.distribution in ("constant", "categorical"):
            return self.distribution
        quantized = "q_" if self.distribution.startswith("q_") else ""
        return quantized + ("gaussian" if self.distribution in _GAUSSIAN else "range")

    def _check_values(self, values: list[Value]) -> None:
        if len({(type(value), value) for value in values}) < len(values):
            raise ValueError(f"values must differ, got {values}")
        if self.probabilities is None:
            return
        total = math.fsum(self.probabilities)
        if len(self.probabilities) != len(values) or min(self.probabilities) < 0:
            raise ValueError(f"probabilities must be one for each value, got {self.probabilities}")
        if abs(total - 1) > 1e-6:
            raise ValueError(f"probabilities must sum to 1, got {total:g}")

    def _check_range(self, low: float, high: float) -> None:
        if low >= high:
            raise ValueError(f"min must be below max, got {low:g} and {high:g}")
        if self.kind == "int_uniform" and not (isinstance(low, int) and isinstance(high, int)):
            raise ValueError(f"min and max must be whole numbers, got {low:g} and {high:g}")
        if self.kind in ("log_uniform_values", "q_log_uniform_values") and low <= 0:
            raise ValueError(f"min must be above 0, got {low:g}")

    def _choose(self, u: float, choices: list[Value]) -> Value:
        if self.probabilities is None:
            return choices[min(len(choices) - 1, int(u * len(choices)))]
        reached = 0.0
        for choice, probability in zip(choices, self.probabilities, strict=True):
            reached += probability
            if u < reached:
                return choice
        return choices[-1]


def _fields(*names: str) -> frozenset[str]:
    return frozenset(names)


_RANGE = _fields("min", "max")
_GAUSS = _fields("mu", "sigma")
# for each shape, what must be given and what may be
_SHAPES: dict[str, list[tuple[frozenset[str], frozenset[str]]]] = {
    "any": [
        (_fields("value"), _fields("value")),
        (_fields("values"), _fields("values")),
        (_RANGE, _RANGE | {"q"}),
    ],
    "constant": [(_fields("value"), _fields("value"))],
    "categorical": [(_fields("values"), _fields("values"))],
    "range": [(_RANGE, _RANGE)],
    "q_range": [(_RANGE | {"q"}, _RANGE | {"q"})],
    "gaussian": [(_fields(), _GAUSS)],
    "q_gaussian": [(_fields("q"), _GAUSS | {"q"})],
}
_WORDS = {
    "any": "either `value`, or `values`, or `min` and `max`",
    "constant": "`value`",
    "categorical": "`values`",
    "range": "`min` and `max`",
    "q_range": "`min`, `max` and `q`",
    "gaussian": "`mu` and `sigma`, or none",
    "q_gaussian": "`q`, and perhaps `mu` and `sigma`",
}
