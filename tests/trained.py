"""Train a tiny experiment into a run, as many tests begin."""

from collections.abc import Callable
from pathlib import Path

from raypixel.data import Manifest
from raypixel.experiment import ExperimentConfig
from raypixel.runs import Event, Run
from raypixel.storage import Remote
from raypixel.train.start import train


def ignore(event: Event) -> None:
    del event


def train_into(
    place: Path | Remote,
    config: ExperimentConfig,
    manifest: Manifest,
    on_event: Callable[[Event], None] = ignore,
) -> dict[str, float]:
    """Begin a run, or go on with the one that is there, and return the metrics at its end."""
    run = Run.at(place)
    return train(run.begin(config, manifest, resume=True), manifest, run, on_event=on_event)
