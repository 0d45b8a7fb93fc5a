"""A sweep: every trial trained, ranked and recorded; one that fails is marked and the rest go on."""

from pathlib import Path

import pytest
import yaml

from raypixel.errors import RaypixelError
from raypixel.jobs import record
from raypixel.jobs.sweep import run_sweep
from raypixel.jobs.trials import TrialResult
from raypixel.jobs.worker import Message
from raypixel.sweeps import Trial, load_sweep


class Watch:
    def __init__(self) -> None:
        self.started: list[str] = []
        self.epochs: dict[str, int] = {}
        self.finished: list[str] = []

    def start(self, trial: Trial) -> None:
        self.started.append(trial.label)

    def progress(self, trial: Trial, message: Message) -> None:
        self.epochs[trial.label] = message.epoch

    def finish(self, result: TrialResult) -> None:
        self.finished.append(result.trial.label)


def load(tmp_path: Path, digits_root: Path, parameters: dict, **block):
    file = tmp_path / "sweep.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "name": "test",
                "parameters": {name: {"values": values} for name, values in parameters.items()},
                "raypixel": {"base": "digits_pixelcnn", **block},
            }
        )
    )
    overrides = {
        "model.num_layers": 1,
        "model.output_size": 8,
        "data.root": str(digits_root),
        "data.max_train_images": 200,
        "data.max_eval_images": 60,
        "training.num_epochs": 2,
    }
    return load_sweep(file, overrides)


def run(sweep, trials, digits, folder, watch):
    with (
        record.open_tracker(pytest.fail) as tracker,
        record.start_sweep(tracker, sweep, folder) as parent,
    ):
        return run_sweep(sweep, trials, digits, folder, watch=watch, tracker=tracker, parent=parent)


@pytest.mark.ray
@pytest.mark.slow
def test_sweep_ranks_trials_marks_the_failing_one_and_records_all(
    tmp_path, digits_root, digits, ray_cluster, private_mlflow
):
    from mlflow import MlflowClient

    parameters = {
        "model.hidden_size": [4, 16],
        "training.learning_rate": [5e-3, 1e30],
        "training.gradient_clip_norm": [None],
    }
    sweep, trials = load(tmp_path, digits_root, parameters)
    watch = Watch()
    result = run(sweep, trials, digits, tmp_path / "out", watch)

    labels = [trial.label for trial in trials]
    assert sorted(watch.started) == sorted(watch.finished) == sorted(labels)
    good, bad = result.trials[:2], result.trials[2:]
    assert [trial.error for trial in good] == [None, None]
    assert all("loss must be finite" in trial.error for trial in bad)
    assert good[0].metrics["val/bits_per_dim"] <= good[1].metrics["val/bits_per_dim"]
    for trial in good:
        assert watch.epochs[trial.trial.label] == 2
        assert trial.best.state["best"] == trial.metrics["val/bits_per_dim"]
        assert trial.metrics["test/bits_per_dim"] < result.baselines["uniform over 17 levels"]
    assert result.num_test_images == 60

    client = MlflowClient(private_mlflow)
    runs = client.search_runs([client.get_experiment_by_name("raypixel").experiment_id])
    (parent,) = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    children = {r.info.run_name: r for r in runs if r is not parent}
    assert children.keys() == set(labels)
    for trial in result.trials:
        child = children[trial.trial.label]
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.info.status == ("FINISHED" if trial.error is None else "FAILED")
    best = children[good[0].trial.label]
    assert best.data.metrics["best/test/bits_per_dim"] == good[0].metrics["test/bits_per_dim"]


@pytest.mark.ray
def test_trial_that_no_cluster_node_can_hold_is_refused_at_once(
    tmp_path, digits_root, digits, ray_cluster, private_mlflow
):
    sweep, trials = load(tmp_path, digits_root, {"model.hidden_size": [4]}, cpus_per_trial=500)
    with pytest.raises(
        RaypixelError,
        match=r"cpus_per_trial and gpus_per_trial must fit a machine of the cluster, got 500 and 0: its",
    ):
        run(sweep, trials, digits, tmp_path / "out", Watch())
