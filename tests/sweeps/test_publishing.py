"""`raypixel publish`: a run or a sweep that MLflow does not have, or has in part."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from raypixel.cli import main
from raypixel.errors import CheckpointError
from raypixel.runs import Event, Run
from raypixel.runs.tracking import Publisher
from raypixel.sweeps.ledger import Ledger, TrialEntry
from raypixel.sweeps.publishing import publish
from tests.runs.tracking.runs import begin_run, epochs, tell
from tests.trained import train_into


def runs_of(uri: str) -> dict:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("raypixel")
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def test_a_run_made_while_the_server_was_away_is_published_by_its_name(
    tiny, digits, tmp_path, private_mlflow
):
    train_into(tmp_path / "runs" / "one", tiny(), digits)
    Run.at(tmp_path / "runs" / "one").end(Event("end", status="done"))
    for _ in range(2):
        done = CliRunner().invoke(main, ["publish", "one"])
        assert done.exit_code == 0, done.output
        assert "1 run" in done.output
    ((name, run),) = runs_of(private_mlflow).items()
    assert (name, run.info.status) == ("one", "FINISHED")
    assert run.data.metrics["val/num_images"] == 50


def test_a_sweep_is_published_with_its_trials_and_a_dead_one_as_killed(
    tiny, digits, tmp_path, private_mlflow
):
    folder = tmp_path / "sweep"
    folder.mkdir()
    (folder / "sweep.yaml").write_text("name: test\n")
    facts = {"id": "abc", "finished": None, "best_trial": "a", "best_folder": "there"}
    entries = {
        name: TrialEntry(name, name, {}, 0, f"trials/{name}", status=status)
        for name, status in (("a", "done"), ("b", "running"), ("c", "running"))
    }
    Ledger(folder, facts, entries).write()
    for name in "ab":  # the third had not begun
        run = begin_run(folder / "trials" / name, tiny(), digits)
        tell(run, epochs(1))
    Run.at(folder / "trials" / "a").end(Event("end", status="done"))
    with Publisher(warn=pytest.fail) as publisher:
        publish(folder, publisher)
    stored = runs_of(private_mlflow)
    assert {name: run.info.status for name, run in stored.items()} == {
        "sweep": "KILLED",
        "a": "FINISHED",
        "b": "KILLED",
    }
    assert stored["a"].data.tags["mlflow.parentRunId"] == stored["sweep"].info.run_id
    assert stored["sweep"].data.tags["raypixel.best_trial"] == "a"


def test_a_run_that_is_being_trained_is_not_ended(tiny, digits, tmp_path, private_mlflow):
    run = begin_run(tmp_path / "run", tiny(), digits)
    tell(run, epochs(1))
    with run.claim(), Publisher(warn=pytest.fail) as publisher:
        publish(run.home, publisher)
        assert publisher.flush(30)
    assert runs_of(private_mlflow)["run"].info.status == "RUNNING"


def test_another_folder_is_refused(tmp_path: Path, private_mlflow):
    with (
        Publisher(warn=pytest.fail) as publisher,
        pytest.raises(CheckpointError, match="must be a run's folder or a sweep's, got neither"),
    ):
        publish(tmp_path / "nothing", publisher)
