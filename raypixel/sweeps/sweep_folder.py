"""A sweep's folder: its file, trials.json, and whether what is resumed is the same sweep.

sweep.yaml             the file as it was given
trials.json            every trial and how it stands (docs/sweeps.md)
trials/001-.../        a run's folder for each trial
"""

import shutil
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch

from raypixel import storage
from raypixel.config import load_yaml
from raypixel.data import DataConfig, Manifest, describe_levels, num_levels_of
from raypixel.data.batches import ImageSource, images_as_evaluated
from raypixel.data.splits import Split
from raypixel.errors import CheckpointError, StorageError
from raypixel.evaluation import histogram_baseline, uniform_baseline
from raypixel.experiment import parse_experiment
from raypixel.runs.lease import OBJECT as LEASE
from raypixel.runs.origin import origin_of_code
from raypixel.runs.remote import fetch_sweep
from raypixel.runs.run import LOCK, compiled_as, differences
from raypixel.storage import Location
from raypixel.sweeps.ledger import FILE_NAME, Ledger, read_ledger
from raypixel.sweeps.publishing import SWEEP_FILE
from raypixel.sweeps.trials import Sweep, Trial


def open_ledger(sweep: Sweep, place: Location, *, is_resumed: bool) -> Ledger:
    """Begin the ledger of a sweep, or read that of the one to resume."""
    folder = fetch_sweep(place)
    with storage.named(folder, place):
        ledger = _open(sweep, folder, is_resumed=is_resumed)
    ledger.home = place
    return ledger


def _open(sweep: Sweep, folder: Path, *, is_resumed: bool) -> Ledger:
    if is_resumed and (folder / FILE_NAME).exists():
        return read_ledger(folder)
    shutil.copyfile(sweep.path, folder / SWEEP_FILE)
    block = sweep.config.raypixel
    reference = block.reference and {
        "source": block.reference.source,
        "unit": block.reference.unit,
    }
    facts = {
        "id": uuid.uuid4().hex,
        "code": origin_of_code(),
        "name": sweep.config.name,
        "description": sweep.config.description,
        "base": block.base,
        "metric": sweep.config.metric.name,
        "is_smoke": sweep.is_smoke,
        "reference": reference,
        "started": now(),
        "finished": None,
    }
    return Ledger(folder, facts)


def drop_unbegun(place: Location) -> None:
    """Delete the folder of a sweep that failed before its first trial, so that its name is free again."""
    with suppress(StorageError):  # what failed first is told
        if (storage.names_in(place) or set()) <= {SWEEP_FILE, LOCK, LEASE}:
            storage.remove(place)


def known_trials(sweep: Sweep, ledger: Ledger) -> dict[str, Trial]:
    """Return the trials of an earlier part of the sweep.

    Raises:
        CheckpointError: One is not the same, or not there, in the file as it is now.
    """
    planned = {trial.label: trial for trial in sweep.trials}
    known, problems = {}, []
    for label, entry in ledger.entries.items():
        trial = planned.get(label)
        if sweep.config.method == "bayes":
            same = [t for t in sweep.expand(entry.parameters) if t.label == label]
            trial = same[0] if same else None
        where = ledger.folder / entry.run_folder
        if trial is None:
            problems.append(f"{sweep.path}: must be resumed with trial {label}, it is not there")
            continue
        known[label] = trial
        with storage.named(ledger.folder, ledger.home):
            problems += _differences(where, trial, ledger.home / entry.run_folder)
    if problems:
        raise CheckpointError(problems)
    return known


def _differences(where: Path, trial: Trial, shown: Location) -> list[str]:
    if not (where / "experiment.yaml").exists():
        return []
    before = parse_experiment(load_yaml(where / "experiment.yaml"), where=str(where))
    # whether data is streamed is the sweep's, and in trials.json
    data = trial.config.data.model_copy(update={"backend": before.data.backend})
    after = compiled_as(before, trial.config).model_copy(update={"data": data})
    return differences(before, after, shown)


def note_data(
    ledger: Ledger,
    splits: Mapping[str, ImageSource],
    data: DataConfig,
    manifest: Manifest,
) -> None:
    """Write down what is trained on, and what trials are to be better than.

    A set that is streamed is not read for a baseline: it gets only the one that follows from its levels.
    """
    num_levels = num_levels_of(data, manifest)
    ledger.facts["data"] = {
        "name": data.name,
        "levels": describe_levels(data, num_levels),
        "backend": data.backend,
        "image_shape": list(manifest.image_shape),
        "num_images": {name: len(split) for name, split in splits.items()},
    }
    blank = torch.zeros((1, *manifest.image_shape), dtype=torch.uint8)
    uniform = uniform_baseline(blank, num_levels=num_levels)
    ledger.facts["baselines"] = {f"uniform over {num_levels} levels": uniform.bits_per_dim}
    train, test = splits["train"], splits["test"]
    if isinstance(train, Split) and isinstance(test, Split):
        # as they are evaluated: a stochastic binarization is one draw
        train_x, x = (images_as_evaluated(split, data, manifest) for split in (train, test))
        histogram = histogram_baseline(train_x, x, num_levels=num_levels)
        ledger.facts["baselines"]["histogram of each pixel"] = histogram.bits_per_dim


def now() -> str:
    """Return the time as trials.json writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
