"""Runs whose folders are written by hand, to be published."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from raypixel.data import Manifest
from raypixel.experiment import ExperimentConfig
from raypixel.runs import Event, Run, writing


def begin_run(folder: Path, config: ExperimentConfig, manifest: Manifest) -> Run:
    run = Run.at(folder)
    run.begin(config, manifest, resume=True)
    return run


def tell(run: Run, events: Iterable[Event]) -> None:
    with writing(run) as writer:
        for event in events:
            writer.events.append(event)


def epochs(*numbers: int, name: str = "value") -> list[Event]:
    return [Event("epoch", step=n, epoch=n, metrics={name: float(n)}) for n in numbers]


def as_stored(*numbers: int) -> list[tuple[int, float]]:
    return [(n, float(n)) for n in numbers]


def only_run(runs: list[Any]) -> Any:
    (run,) = runs
    return run
