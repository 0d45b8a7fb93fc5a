"""Ray workers and sweeps whose data and results are in storage."""

import json
import os
import shutil

import pytest

from raypixel import storage
from raypixel.data import prepare
from raypixel.figures.report_page import write_report
from raypixel.runs import Event, Run
from raypixel.runs.remote import fetch_sweep
from raypixel.sweeps.ledger import read_ledger
from tests.sweeps.test_sweep_run import Watch, load, run
from tests.trained import train_into


@pytest.mark.ray
@pytest.mark.slow
def test_ray_worker_trains_into_storage_what_one_process_does(
    tiny, digits, bucket, ray_cluster, tmp_path
):
    root, place = bucket / "data", bucket / "runs" / "ray"
    prepare("digits", root=root)
    config = tiny(data__root=str(root), scaling__num_workers=1, scaling__cpus_per_worker=1.0)
    events: list[Event] = []
    metrics = train_into(place, config, digits, events.append)
    expected = train_into(tmp_path / "one", tiny(), digits)
    assert metrics == pytest.approx(expected, rel=1e-3)
    assert [m.epoch for m in events if m.kind == "epoch"] == [1, 2]
    assert Run.at(place).best().state["step"] == 8
    assert not storage.exists(place / "ray")


@pytest.mark.ray
@pytest.mark.slow
def test_sweep_in_storage_is_resumed_on_an_empty_machine_and_reported(
    digits, digits_root, bucket, ray_cluster, tmp_path, private_mlflow
):
    place = bucket / "runs" / "sweep"
    sweep = load(tmp_path, digits_root, {"model.hidden_size": [4, 8]}, epochs=1)
    watch = Watch()
    result = run(sweep, digits, place, watch)
    assert result.is_complete
    assert [watch.epochs[trial.label] for trial in sweep.trials] == [1, 1]
    first, second = sweep.trials
    ledger = json.loads(storage.read_bytes(place / "trials.json"))
    assert [entry["status"] for entry in ledger["trials"]] == ["done", "done"]
    assert not storage.exists(place / "ray")
    # as after a kill in the second trial, on a machine on which nothing is
    ledger["trials"][1] |= {"status": "running", "test": None}
    storage.write_bytes(place / "trials.json", json.dumps(ledger).encode())
    shutil.rmtree(os.environ["RAYPIXEL_CACHE"])
    again = Watch()
    resumed = run(sweep, digits, place, again, is_resumed=True)
    assert again.started == [second.label]
    assert {t.trial.label: t.entry.test for t in resumed.trials} == {
        t.trial.label: t.entry.test for t in result.trials
    }
    assert first.label not in again.epochs
    assert read_ledger(fetch_sweep(place)).entries[second.label].status == "done"
    markdown, _ = write_report(place)
    assert str(markdown) == f"{place}/report/report.md"
    assert second.label in storage.read_bytes(place / "report" / "report.md").decode()
    assert f"raypixel report {place}" in storage.read_bytes(place / "report/report.md").decode()
