"""A sweep: every trial trained, ranked and recorded; one that fails is marked and the rest go on."""

import json
import time
from pathlib import Path

import pytest
import yaml

from raypixel.errors import CheckpointError, RaypixelError
from raypixel.runs import Event
from raypixel.runs.tracking import opening_publisher
from raypixel.sweeps import Trial, load_sweep
from raypixel.sweeps.ledger import read_ledger
from raypixel.sweeps.sweep_run import run_sweep
from raypixel.sweeps.trial_states import TrialResult


class Watch:
    def __init__(self) -> None:
        self.started: list[str] = []
        self.epochs: dict[str, int] = {}
        self.finished: list[str] = []

    def start(self, trial: Trial) -> None:
        self.started.append(trial.label)

    def progress(self, trial: Trial, event: Event) -> None:
        self.epochs[trial.label] = event.epoch

    def finish(self, result: TrialResult) -> None:
        self.finished.append(result.trial.label)


def load(
    tmp_path: Path, digits_root: Path, parameters: dict, *, more=None, epochs=2, given=None, **block
):
    file = tmp_path / "sweep.yaml"
    mapping = {
        "name": "test",
        "parameters": {
            name: {"values": entry} if isinstance(entry, list) else entry
            for name, entry in parameters.items()
        },
        "raypixel": {"base": "digits_pixelcnn", **block},
        **(more or {}),
    }
    file.write_text(yaml.safe_dump(mapping, sort_keys=False))
    overrides = {
        "model.num_layers": 1,
        "model.hidden_size": 4,
        "model.output_size": 8,
        "data.root": str(digits_root),
        "data.max_train_images": 200,
        "data.max_eval_images": 60,
        "training.num_epochs": epochs,
    }
    return load_sweep(file, given or overrides)


def run(sweep, digits, folder, watch, *, is_resumed=False, warn=pytest.fail):
    with opening_publisher(pytest.fail) as publisher:
        return run_sweep(
            sweep,
            digits,
            folder,
            watch=watch,
            publisher=publisher,
            warn=warn,
            is_resumed=is_resumed,
        )


def runs_of(uri: str):
    """Return the parent's run and the children's by name."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("raypixel").experiment_id])
    (parent,) = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    return client, parent, {r.info.run_name: r for r in runs if r is not parent}


@pytest.mark.ray
@pytest.mark.slow
def test_sweep_ranks_trials_marks_the_failing_one_and_records_all(
    tmp_path, digits_root, digits, ray_cluster, private_mlflow
):
    parameters = {
        "model.hidden_size": [4, 16],
        "training.learning_rate": [5e-3, 1e30],
        "training.gradient_clip_norm": [None],
    }
    sweep = load(tmp_path, digits_root, parameters)
    watch = Watch()
    result = run(sweep, digits, tmp_path / "out", watch)

    labels = [trial.label for trial in sweep.trials]
    assert result.is_complete
    assert sorted(watch.started) == sorted(watch.finished) == sorted(labels)
    good, bad = result.trials[:2], result.trials[2:]
    assert [trial.error for trial in good] == [None, None]
    assert all("loss must be finite" in trial.error for trial in bad)
    assert good[0].entry.val_bits_per_dim <= good[1].entry.val_bits_per_dim
    for trial in good:
        assert watch.epochs[trial.trial.label] == 2
        assert trial.best.state["best"] == trial.entry.val_bits_per_dim
        assert trial.entry.test["bits_per_dim"] < result.baselines["uniform over 17 levels"]
        assert trial.entry.test["num_images"] == result.num_test_images == 60

    client, parent, children = runs_of(private_mlflow)
    assert children.keys() == set(labels)
    for trial in result.trials:
        child = children[trial.trial.label]
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.info.status == ("FINISHED" if trial.error is None else "FAILED")
    best = children[good[0].trial.label]
    assert best.data.metrics["best/test/bits_per_dim"] == good[0].entry.test["bits_per_dim"]
    assert parent.data.tags["raypixel.best_trial"] == good[0].trial.label
    by_step = client.get_metric_history(best.info.run_id, "train/batch_bits_per_dim")
    assert by_step  # what messages of steps carry and those of epochs do not


@pytest.mark.ray
@pytest.mark.slow
def test_trials_json_says_all_and_seeds_are_averaged(
    tmp_path, digits_root, digits, ray_cluster, private_mlflow
):
    reference = {
        "source": "somewhere",
        "unit": "bits/dim",
        "values": [{"at": {"model.hidden_size": 8}, "value": 1.5}],
    }
    sweep = load(
        tmp_path,
        digits_root,
        {"model.hidden_size": [4, 8]},
        seeds=[0, 1],
        num_samples=2,
        reference=reference,
    )
    result = run(sweep, digits, tmp_path / "out", Watch())
    contents = json.loads((tmp_path / "out" / "trials.json").read_text())
    assert contents["data"]["num_images"] == {"train": 200, "val": 60, "test": 60}
    assert contents["baselines"].keys() == result.baselines.keys()
    assert contents["reference"] == {"source": "somewhere", "unit": "bits/dim"}
    assert contents["finished"] >= contents["started"]
    assert (tmp_path / "out" / "sweep.yaml").read_text() == sweep.path.read_text()
    assert len(contents["trials"]) == 4
    for entry in contents["trials"]:
        assert entry["status"] == "done"
        assert entry["reference"] == (
            1.5 if entry["parameters"]["model.hidden_size"] == 8 else None
        )
        assert entry["sampling"]["num_images"] == 2
        assert entry["sampling"]["seconds"] > 0
        assert entry["num_parameters"] == sweep.num_parameters[entry["name"]]
        assert 0 < entry["seconds"] <= entry["device_hours"] * 3600
        assert (tmp_path / "out" / entry["run_folder"] / "metrics.jsonl").exists()
    for configuration in result.configurations:
        values = [entry.val_bits_per_dim for entry in configuration.entries]
        assert len(set(values)) == 2
        assert configuration.val.mean == pytest.approx(sum(values) / 2)
        assert configuration.val.deviation == pytest.approx(abs(values[0] - values[1]) / 2**0.5)


@pytest.mark.ray
@pytest.mark.slow
def test_a_trial_that_is_behind_is_stopped_and_its_place_is_used(
    tmp_path, digits_root, digits, ray_cluster, private_mlflow
):
    # the good one first, alone: each later one is behind at its first epoch
    rates = [1e-2, 3e-7, 2e-7, 1e-7]
    more = {"early_terminate": {"type": "hyperband", "min_iter": 1, "max_iter": 9, "eta": 2}}
    sweep = load(
        tmp_path,
        digits_root,
        {"training.learning_rate": rates},
        more=more,
        epochs=4,
        max_concurrent=1,
    )
    result = run(sweep, digits, tmp_path / "out", Watch())
    entries = {t.trial.parameters["training.learning_rate"]: t.entry for t in result.trials}
    assert result.is_complete
    assert entries[1e-2].status == "done"
    for rate in rates[1:]:
        assert (entries[rate].status, entries[rate].stopped_by) == ("stopped", "early_terminate")
        assert entries[rate].epoch == 1
        assert entries[rate].test is None
        assert entries[rate].val_bits_per_dim > entries[1e-2].val_bits_per_dim
    _, _, children = runs_of(private_mlflow)
    assert {child.data.tags["raypixel.status"] for child in children.values()} == {
        "done",
        "stopped",
    }


@pytest.mark.ray
@pytest.mark.slow
def test_a_trial_whose_process_dies_goes_on_from_its_checkpoint_and_then_fails(
    tmp_path, digits_root, digits, ray_cluster, private_mlflow, monkeypatch
):
    sweep = load(tmp_path, digits_root, {"model.hidden_size": [4, 5]}, epochs=3)
    folder = tmp_path / "out"

    class Saboteur(Watch):
        """Puts a folder where the second trial writes its metrics, once its first epoch is over."""

        def progress(self, trial: Trial, event: Event) -> None:
            super().progress(trial, event)
            if trial.label == "hidden_size=5" and event.epoch >= 1:
                path = next(folder.glob("trials/*hidden_size=5")) / "metrics.jsonl"
                if path.is_file():
                    path.unlink()
                    path.mkdir()

    result = run(sweep, digits, folder, Saboteur())
    entries = {trial.trial.label: trial.entry for trial in result.trials}
    assert entries["hidden_size=4"].status == "done"
    assert entries["hidden_size=5"].status == "failed"
    assert entries["hidden_size=5"].error.startswith("IsADirectoryError")
    assert entries["hidden_size=5"].epoch >= 1


@pytest.mark.ray
@pytest.mark.slow
def test_a_resumed_sweep_runs_only_what_did_not_end(
    tmp_path, digits_root, digits, ray_cluster, private_mlflow
):
    folder = tmp_path / "out"
    parameters = {"model.hidden_size": [4, 5, 6]}
    sweep = load(tmp_path, digits_root, parameters)
    run(sweep, digits, folder, Watch())
    before = read_ledger(folder)
    cut_off = before.entries["hidden_size=5"]
    cut_off.status, cut_off.test = "running", None
    del before.entries["hidden_size=6"]
    before.write()

    watch = Watch()
    result = run(sweep, digits, folder, watch, is_resumed=True)
    assert sorted(watch.started) == ["hidden_size=5", "hidden_size=6"]
    assert {trial.entry.status for trial in result.trials} == {"done"}
    after = read_ledger(folder)
    assert after.entries["hidden_size=4"] == before.entries["hidden_size=4"]
    assert after.entries["hidden_size=5"].val_bits_per_dim == cut_off.val_bits_per_dim
    _, _, children = runs_of(private_mlflow)  # none twice, one parent
    assert len(children) == 3

    changed = load(tmp_path, digits_root, {"model.hidden_size": [4, 5]})
    with pytest.raises(CheckpointError, match="must be resumed with trial hidden_size=6"):
        run(changed, digits, folder, Watch(), is_resumed=True)
    more = {"training.batch_size": [7]}
    changed = load(tmp_path, digits_root, parameters | more)
    with pytest.raises(CheckpointError, match=r"with training\.batch_size 32 as before, got 7"):
        run(changed, digits, folder, Watch(), is_resumed=True)


@pytest.mark.ray
@pytest.mark.slow
def test_no_new_trial_starts_once_the_target_is_reached(
    tmp_path, digits_root, digits, ray_cluster, private_mlflow
):
    more = {"metric": {"name": "val/bits_per_dim", "target": 4.2}}  # as good as nothing
    sweep = load(
        tmp_path, digits_root, {"model.hidden_size": [4, 5, 6]}, more=more, max_concurrent=1
    )
    result = run(sweep, digits, tmp_path / "out", Watch())
    assert result.is_complete
    assert [trial.trial.label for trial in result.trials] == ["hidden_size=4"]


@pytest.mark.ray
@pytest.mark.parametrize(
    ("resources", "asked"),
    [
        ({"cpus_per_worker": 500}, "1 workers of 500 CPU and 0 GPU"),
        ({"gpus_per_worker": 8.0}, "1 workers of 1 CPU and 8 GPU"),
        ({"workers": 64}, "64 workers of 1 CPU and 0 GPU"),
    ],
)
def test_trial_that_no_cluster_node_can_hold_is_refused_at_once(
    tmp_path, digits_root, digits, ray_cluster, private_mlflow, resources, asked
):
    sweep = load(tmp_path, digits_root, {"model.hidden_size": [4]}, resources=resources)
    started = time.monotonic()
    with pytest.raises(
        RaypixelError, match=f"must fit the cluster, got {asked}: its machines have"
    ):
        run(sweep, digits, tmp_path / "out", Watch())
    assert time.monotonic() - started < 120
