"""What a report says of a sweep, as numbers and texts; all of it from the sweep's folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from raypixel.config import parse_json
from raypixel.sweeps.ledger import Ledger
from raypixel.sweeps.ranking import DIGITS, RankedConfiguration, Spread, rank
from raypixel.units import duration

NUM_GROUPS = 4


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        title: Above it.
        columns: Heads.
        rows: One text for each column.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]


def ranked(ledger: Ledger) -> list[RankedConfiguration]:
    """Return the sweep's configurations, the best first, trials that still run among them."""
    return rank(ledger.entries.values(), ledger.facts["metric"])


def ranking(ledger: Ledger) -> Table:
    """Return the table of all configurations, with the published values and the baselines."""
    digits, reference = DIGITS[ledger.facts["metric"]], ledger.facts["reference"]
    columns = ["rank", "configuration", "validation", "test", "n", "parameters", "time", "state"]
    rows = []
    for number, group in enumerate(ranked(ledger), start=1):
        best = group.best
        row = [
            str(number) if group.val else "-",
            group.label,
            _shown(group.val, digits),
            _shown(group.test, digits),
            str(group.val.count if group.val else 0),
            "" if best.num_parameters is None else f"{best.num_parameters:,}",
            "" if best.seconds is None else duration(best.seconds),
            ", ".join(sorted({entry.stopped_by or entry.status for entry in group.entries})),
        ]
        published = "" if best.reference is None else f"{best.reference:g}"
        rows.append([*row, published] if reference else row)
    columns += ["published"] if reference else []
    if digits == DIGITS["val/bits_per_dim"]:
        for name, value in ledger.facts.get("baselines", {}).items():
            row = ["", f"baseline: {name}", "", f"{value:.{digits}f}"]
            rows.append(row + [""] * (len(columns) - len(row)))
    return Table(f"Ranking, {unit_of(ledger)}", columns, rows)


def two_way(ledger: Ledger) -> Table | None:
    """Return the metric by the two parameters that vary, published values in brackets; None if it is another number."""
    names = varied(ledger)
    if len(names) != 2:
        return None
    down, across = names
    ys, xs = (_values(ledger, name) for name in names)
    digits, groups = DIGITS[ledger.facts["metric"]], ranked(ledger)
    if len(ys) * len(xs) > 2 * len(groups):  # draws, not a grid
        return None
    cells = {}
    for group in groups:
        entry = group.best
        text = _shown(group.val, digits) or entry.status
        published = "" if entry.reference is None else f" ({entry.reference:g})"
        cells[entry.parameters[down], entry.parameters[across]] = text + published
    rows = [[f"{down} = {word(y)}", *(cells.get((y, x), "") for x in xs)] for y in ys]
    title = f"Validation {unit_of(ledger)} by two parameters"
    title += ", published values in brackets" if ledger.facts["reference"] else ""
    return Table(title, ["", *(f"{across} = {word(x)}" for x in xs)], rows)


def failures(ledger: Ledger) -> Table | None:
    """Return the trials that failed and why."""
    rows = [[entry.name, entry.error] for entry in ledger.entries.values() if entry.error]
    return Table("Failed trials", ["trial", "error"], rows) if rows else None


def importance(ledger: Ledger) -> dict[str, float]:
    """Return how much of the variance of the metric between trials each parameter explains alone (eta squared).

    A parameter of more values than there are trials to compare is put into four groups of as many trials each. Shares of
    different parameters overlap where a draw is not balanced, and do not tell of interactions.
    """
    known = [
        (entry, value)
        for entry in ledger.entries.values()
        if (value := entry.value(ledger.facts["metric"])) is not None
    ]
    mean = fmean(value for _, value in known) if known else 0.0
    total = sum((value - mean) ** 2 for _, value in known)
    if len(known) < 3 or not total:
        return {}
    shares = {}
    for name in varied(ledger):
        groups = _grouped([(entry.parameters.get(name), value) for entry, value in known])
        between = sum(len(group) * (fmean(group) - mean) ** 2 for group in groups)
        shares[name] = between / total
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def curves(ledger: Ledger) -> dict[str, list[tuple[float, float]]]:
    """Return the metric by epoch of each trial: pairs of an epoch, in fractions, and a value."""
    found = {}
    for entry in ledger.entries.values():
        path = ledger.folder / entry.run_folder / "metrics.jsonl"
        points = [(row["step"], row[ledger.facts["metric"]]) for row in _json_lines(path)]
        if points:
            found[entry.name] = points
    return found


def summary(ledger: Ledger) -> list[tuple[str, str]]:
    """Return what was swept, in pairs of a name and a text."""
    facts, entries = ledger.facts, list(ledger.entries.values())
    data = facts.get("data")
    lines = [("base", str(facts["base"]))]
    if data:
        counts = ", ".join(f"{name} {n:,}" for name, n in data["num_images"].items())
        shape = "x".join(map(str, data["image_shape"]))
        lines += [("data", f"{data['name']}, {data['levels']}, {shape}"), ("images", counts)]
    lines.append(("metric", f"{facts['metric']}, {unit_of(ledger)}, the lowest over the epochs"))
    lines.append(("seeds", ", ".join(map(str, sorted({entry.seed for entry in entries})))))
    states = [entry.status for entry in entries]
    counted = ", ".join(f"{states.count(s)} {s}" for s in sorted(set(states)))
    lines.append(("trials", f"{len(entries)}: {counted}"))
    hours = sum(entry.device_hours for entry in entries)
    lines.append(("cost", f"{hours:.3g} device-hours"))
    finished = facts.get("finished")
    ended = f"ended {finished}" if finished else "not finished"
    lines.append(("time", f"started {facts['started']}, {ended}"))
    if facts["reference"]:
        lines.append(("published", f"{facts['reference']['unit']}: {facts['reference']['source']}"))
    if facts.get("is_smoke"):
        lines.append(("smoke", "shrunk to two steps a trial: the numbers mean nothing"))
    return lines


def unit_of(ledger: Ledger) -> str:
    """Return the unit of the sweep's metric."""
    return "bits/dim" if ledger.facts["metric"] == "val/bits_per_dim" else "nats per image"


def varied(ledger: Ledger) -> list[str]:
    """Return the parameters in which configurations differ; the seed is none of them."""
    names = {name for entry in ledger.entries.values() for name in entry.parameters}
    return sorted(n for n in names if n != "training.seed" and len(_values(ledger, n)) > 1)


def word(value: Any) -> str:
    """Write a parameter's value as YAML has it."""
    return json.dumps(value) if isinstance(value, bool) or value is None else str(value)


def _shown(spread: Spread | None, digits: int) -> str:
    return "" if spread is None else spread.describe(digits)


def _values(ledger: Ledger, name: str) -> list[Any]:
    found: list[Any] = []
    for entry in ledger.entries.values():
        value = entry.parameters.get(name)
        if not any(value == other and type(value) is type(other) for other in found):
            found.append(value)
    is_number = all(isinstance(v, int | float) for v in found)
    return sorted(found) if is_number else found


def _grouped(pairs: list[tuple[Any, float]]) -> list[list[float]]:
    values = {word(value) for value, _ in pairs}
    is_range = len(values) > max(NUM_GROUPS, len(pairs) // 2)
    if not is_range or not all(isinstance(value, int | float) for value, _ in pairs):
        return [[v for value, v in pairs if word(value) == key] for key in sorted(values)]
    ordered = [v for _, v in sorted(pairs, key=lambda pair: pair[0])]
    size = -(-len(ordered) // NUM_GROUPS)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def _json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a file that may still be written."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(parse_json(line))
        except ValueError:
            break
    return rows
