"""Whether a run holds its data in memory or streams it: decided once, recorded, and the same when it is resumed."""

from raypixel.config import load_yaml
from raypixel.data import DataConfig, Manifest, choose_backend
from raypixel.experiment import ExperimentConfig, parse_experiment
from raypixel.jobs.remote_run import fetch_run
from raypixel.storage import Location


def settle(config: ExperimentConfig, manifest: Manifest, place: Location) -> ExperimentConfig:
    """Return an experiment whose `data.backend` is no longer `auto`.

    The order of the images differs between the two, so a run that is resumed keeps the one that it began with, also on a
    machine with more memory.

    Args:
        config: The experiment.
        manifest: Its prepared data set.
        place: The run's folder.
    """
    return config.model_copy(update={"data": _settled(config.data, manifest, place)})


def _settled(data: DataConfig, manifest: Manifest, place: Location) -> DataConfig:
    if data.backend != "auto":
        return choose_backend(data, manifest)
    folder = fetch_run(place)
    path = folder / "experiment.yaml"
    if any((folder / "checkpoints").glob("step-*")) and path.exists():
        before = parse_experiment(load_yaml(path), where=str(place)).data.backend
        # a run of before there was a choice has "auto"
        return data.model_copy(update={"backend": "memory" if before == "auto" else before})
    return choose_backend(data, manifest)
