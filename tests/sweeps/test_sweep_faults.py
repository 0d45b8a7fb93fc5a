"""A sweep on several machines of which one is killed midway: every trial is accounted for."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.train.machines import Machines, environment

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NUM_TRIALS = 40


@pytest.fixture
def machines() -> Iterator[Machines]:
    cluster = Machines()
    yield cluster
    cluster.stop()


def statuses(folder: Path) -> dict[int, str]:
    """Return how the trial of each seed stands; a seed that is there twice fails the test."""
    path = folder / "runs" / "s" / "trials.json"
    trials = json.loads(path.read_text())["trials"] if path.exists() else []
    found = {trial["seed"]: trial["status"] for trial in trials}
    assert len(found) == len(trials)
    return found


def recorded(uri: str) -> list[tuple[int, str, bool]]:
    """Return seed, status and whether there is a test likelihood for each trial's run in MLflow."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("raypixel").experiment_id
    return sorted(
        (
            int(run.data.params["training.seed"]),
            run.info.status,
            "best/test/bits_per_dim" in run.data.metrics,
        )
        for run in client.search_runs([experiment])
        if "mlflow.parentRunId" in run.data.tags
    )


def test_every_trial_is_accounted_for_when_a_machine_is_killed(
    digits_root, tmp_path, private_mlflow, machines
):
    nodes = [machines.add() for _ in range(2)]
    sweep = {
        "name": "s",
        "parameters": {"training.seed": {"values": list(range(NUM_TRIALS))}},
        "raypixel": {"base": "digits_pixelcnn", "max_retries": 2},
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(sweep))
    options = {
        "data.root": digits_root,
        "data.max_train_images": 64,
        "data.max_eval_images": 64,
        "model.num_layers": 1,
        "model.hidden_size": 4,
        "training.num_epochs": 1,
        "training.max_steps": 2,
    }
    words = [word for key, value in options.items() for word in ("--set", f"{key}={value}")]
    where = ["--address", machines.address]
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "raypixel", "sweep", "s.yaml", *words, *where],
            cwd=tmp_path,
            env=environment() | {"MLFLOW_TRACKING_URI": private_mlflow},
            stdout=file,
            stderr=file,
        )
    try:
        deadline = time.monotonic() + 280
        while sum(status == "done" for status in statuses(tmp_path).values()) < NUM_TRIALS // 3:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.01)
        machines.kill(nodes[0])
        assert process.poll() is None, "it was over before"
        assert process.wait(timeout=280) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
    assert statuses(tmp_path) == dict.fromkeys(range(NUM_TRIALS), "done")
    assert recorded(private_mlflow) == [(seed, "FINISHED", True) for seed in range(NUM_TRIALS)]
