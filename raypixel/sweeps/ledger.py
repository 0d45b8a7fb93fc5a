"""trials.json: what a sweep's folder says of each trial, while it runs and afterwards (docs/sweeps.md).

The file is replaced as a whole, so a reader never sees half of it and a kill loses at most the last second.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard

from pydantic import Field, TypeAdapter

from raypixel.config import parse_json
from raypixel.errors import CheckpointError
from raypixel.runs.run import write_whole
from raypixel.storage import Location

FILE_NAME = "trials.json"
FORMAT_VERSION = 1
LATER_KEYS = {"retries"}
"""What the files of earlier versions do not have."""
SECONDS_BETWEEN_WRITES = 1.0

Status = Literal["running", "done", "stopped", "failed"]


@dataclass
class TrialEntry:
    """One trial of the file; the attributes are its keys.

    Attributes:
        name: The trial's label.
        configuration: The label without the seed.
        parameters: Options of the sweep file by dotted name.
        seed: Of the training.
        run_folder: Its run's folder, relative to the sweep's.
        status: How it stands; `running` in the file of a dead sweep means that it was cut off.
        error: One line if it failed.
        stopped_by: What stopped it early: `early_terminate`, `median` or `time_budget_s`.
        epoch: Complete epochs.
        val_bits_per_dim: The lowest so far.
        val_nll_nats: That in nats per image.
        test: `bits_per_dim`, `nll_nats`, `standard_error_nats`, `num_images` of the best checkpoint.
        sampling: `seconds` for `num_images` from the best checkpoint.
        num_parameters: Of its model.
        seconds: Training time.
        device_hours: Time that it held its workers, times their number, in hours.
        retries: How often its process or machine died and it was started anew.
        reference: The published value of its configuration.
    """

    name: str
    configuration: str
    parameters: dict[str, Any]
    seed: int
    run_folder: Annotated[str, Field(pattern=r"^trials/[A-Za-z0-9_=-][A-Za-z0-9._=-]{0,254}$")]
    status: Status = "running"
    error: str | None = None
    stopped_by: str | None = None
    epoch: int = 0
    val_bits_per_dim: float | None = None
    val_nll_nats: float | None = None
    test: dict[str, float] | None = None
    sampling: dict[str, float] | None = None
    num_parameters: int | None = None
    seconds: float | None = None
    device_hours: float = 0.0
    retries: int = 0
    reference: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether it need not run again: a failed trial may."""
        return self.status in ("done", "stopped")

    def value(self, metric: str) -> float | None:
        """Return the sweep's metric, None if it failed or has no epoch yet."""
        known = {"val/bits_per_dim": self.val_bits_per_dim, "val/nll_nats": self.val_nll_nats}
        return None if self.status == "failed" else known[metric]


_ENTRIES = TypeAdapter(list[TrialEntry])


def _ignore() -> None:
    """Do nothing: a folder of this machine is all there is."""


@dataclass
class Ledger:
    """The file's contents and the file.

    Attributes:
        folder: The sweep's folder on this machine.
        facts: The keys beside `trials`.
        entries: The trials by name, in the order in which they were started.
        home: The sweep's folder, of which `folder` may be the working copy.
        written: Called when the file was written.
    """

    folder: Path
    facts: dict[str, Any] = field(default_factory=dict)
    entries: dict[str, TrialEntry] = field(default_factory=dict)
    home: Location = Path()
    written: Callable[[], None] = _ignore
    _written_at: float = 0.0
    _is_due: bool = False

    def __post_init__(self) -> None:
        self.home = self.folder

    def write(self) -> None:
        """Replace the file."""
        trials = [_public(entry) for entry in self.entries.values()]
        contents = {"format_version": FORMAT_VERSION, **self.facts, "trials": trials}
        write_whole(self.folder / FILE_NAME, json.dumps(contents, indent=1))
        self._written_at, self._is_due = time.monotonic(), False
        self.written()

    def note(self) -> None:
        """Remember that something changed that may be written a little later."""
        self._is_due = True

    def write_if_due(self) -> None:
        """Write what was noted, not more often than once a second."""
        if self._is_due and time.monotonic() - self._written_at >= SECONDS_BETWEEN_WRITES:
            self.write()


def read_ledger(folder: Path) -> Ledger:
    """Read the file of a sweep's folder.

    Raises:
        CheckpointError: There is none, or it cannot be read.
    """
    path = folder / FILE_NAME
    try:
        contents = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder}: must be a sweep's folder, got none of {FILE_NAME}"
        ) from None
    except (OSError, ValueError):
        raise CheckpointError(f"{path}: is damaged and cannot be read") from None
    if not _is_ours(contents):
        raise CheckpointError(f"{path}: is not of this version of raypixel")
    del contents["format_version"]
    try:
        trials = _ENTRIES.validate_python(contents.pop("trials"))
    except ValueError:
        raise CheckpointError(f"{path}: is damaged, a trial is not ours") from None
    return Ledger(folder, contents, {entry.name: entry for entry in trials})


def _is_ours(contents: object) -> TypeGuard[dict[str, Any]]:
    if not isinstance(contents, dict) or contents.get("format_version") != FORMAT_VERSION:
        return False
    fields = set(TrialEntry.__dataclass_fields__)
    trials = contents.get("trials")
    return isinstance(trials, list) and all(
        isinstance(trial, Mapping) and fields - LATER_KEYS <= set(trial) <= fields
        for trial in trials
    )


def _public(entry: TrialEntry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in TrialEntry.__dataclass_fields__}
