"""Whether a run holds its data in memory or streams it: decided once, recorded, and the same when it is resumed."""

from pathlib import Path

from raypixel.config import load_yaml
from raypixel.data import DataConfig, Manifest, choose_backend
from raypixel.experiment import ExperimentConfig, parse_experiment


def settle(config: ExperimentConfig, manifest: Manifest, folder: Path) -> ExperimentConfig:
    """Return an experiment whose `data.backend` is no longer `auto`.

    The order of the images differs between the two, so a run that is resumed keeps the one that it began with, also on a
    machine with more memory.

    Args:
        config: The experiment.
        manifest: Its prepared data set.
        folder: The run's folder.
    """
    return config.model_copy(update={"data": _settled(config.data, manifest, folder)})


def _settled(data: DataConfig, manifest: Manifest, folder: Path) -> DataConfig:
    path = folder / "experiment.yaml"
    if data.backend == "auto" and any((folder / "checkpoints").glob("step-*")) and path.exists():
        before = parse_experiment(load_yaml(path), where=str(folder)).data.backend
        # a run of before there was a choice has "auto"
        return data.model_copy(update={"backend": "memory" if before == "auto" else before})
    return choose_backend(data, manifest)
