"""`raypixel sweep` as a user runs it: shrunk runs, a kill and its resumption, several workers, population based training."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

SWEEPS = Path(__file__).parents[2] / "sweeps"


def start(folder: Path, *words: str) -> subprocess.Popen:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "raypixel", "sweep", *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder: Path, *words: str, code: int = 0) -> tuple[str, str]:
    process = start(folder, *words)
    out, err = process.communicate(timeout=500)
    assert process.returncode == code, err
    return out, err


def entries(folder: Path) -> dict[str, dict]:
    path = folder / "trials.json"
    trials = json.loads(path.read_text())["trials"] if path.exists() else []
    return {trial["name"]: trial for trial in trials}


def write(folder: Path, parameters: dict, **more) -> str:
    block = {"base": "digits_pixelcnn", **more.pop("block", {})}
    mapping = {"name": "s", "parameters": parameters, "raypixel": block, **more}
    (folder / "s.yaml").write_text(yaml.safe_dump(mapping, sort_keys=False))
    return "s.yaml"


SMALL = [
    *("--set", "model.num_layers=1", "--set", "model.hidden_size=4"),
    *("--set", "data.max_train_images=200", "--set", "data.max_eval_images=50"),
]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("name", ["quickstart", "diag_layers", "mnist_bayes"])
def test_a_sweep_of_the_repository_runs_to_its_end_when_shrunk(tmp_path, name):
    options = [] if name == "quickstart" else ["--set", "data.name=digits"]
    out, err = run(tmp_path, str(SWEEPS / f"{name}.yaml"), "--smoke", *options)
    found = entries(tmp_path / "runs" / name)
    assert len(found) == {"quickstart": 4, "diag_layers": 6, "mnist_bayes": 4}[name]
    assert {trial["status"] for trial in found.values()} == {"done"}
    assert all(label in out for label in found)
    assert ("published" in out) == (name == "diag_layers")
    # Ray's own lines are nobody's business: ours are one a trial and a handful at the end
    assert len(err.splitlines()) <= len(found) + 8, err


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_was(tmp_path):
    file = write(tmp_path, {"training.seed": {"values": [0, 1, 2, 3]}}, block={"max_concurrent": 1})
    words = [file, *SMALL, "--set", "training.num_epochs=60"]
    process = start(tmp_path, *words)
    folder = tmp_path / "runs" / "s"
    try:
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline:  # the second trial has trained for some epochs
            second = entries(folder).get("seed=1")
            if second and second["epoch"] >= 5:
                break
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    before = entries(folder)
    assert before["seed=0"]["status"] == "done"
    assert before["seed=1"]["status"] == "running"

    out, err = run(tmp_path, *words, "--resume")
    after = entries(folder)
    assert list(after) == ["seed=0", "seed=1", "seed=2", "seed=3"]
    assert {trial["status"] for trial in after.values()} == {"done"}
    assert after["seed=0"] == before["seed=0"]
    assert "seed=0:" not in err
    lines = (folder / after["seed=1"]["run_folder"] / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert len(steps) == len(set(steps)) == 60
    events = (folder / after["seed=1"]["run_folder"] / "events.jsonl").read_text().splitlines()
    epochs = [event["epoch"] for event in map(json.loads, events) if event["kind"] == "epoch"]
    assert epochs == sorted(set(epochs))  # nothing was trained twice
    assert epochs[-1] == 60
    assert all(label in out for label in after)


@pytest.mark.ray
def test_a_sweep_that_fails_before_its_first_trial_leaves_its_name_free(tmp_path):
    write(tmp_path, {"training.seed": {"values": [1, 2]}})
    _, err = run(tmp_path, "s.yaml", *SMALL, "--address", "127.0.0.1:9", code=1)
    assert "no Ray cluster answers at 127.0.0.1:9" in err
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.ray
@pytest.mark.slow
def test_trials_of_several_workers_run_and_are_stopped_without_a_deadlock(tmp_path):
    file = write(
        tmp_path,
        {"training.learning_rate": {"values": [1e-2, 3e-7, 2e-7]}},
        early_terminate={"type": "hyperband", "min_iter": 1, "max_iter": 9, "eta": 2},
        block={"resources": {"workers": 2}},
    )
    run(tmp_path, file, *SMALL, "--set", "training.num_epochs=4")
    found = entries(tmp_path / "runs" / "s")
    assert [trial["status"] for trial in found.values()] == ["done", "stopped", "stopped"]
    assert found["learning_rate=0.01"]["epoch"] == 4


@pytest.mark.ray
@pytest.mark.slow
def test_population_based_training_copies_the_better_trial(tmp_path):
    rate = {"distribution": "log_uniform_values", "min": 1e-7, "max": 1e-1}
    file = write(
        tmp_path,
        {"training.learning_rate": rate},
        method="random",
        run_cap=4,
        block={"scheduler": "pbt", "max_concurrent": 2},
    )
    _, err = run(tmp_path, file, *SMALL, "--set", "training.num_epochs=20")
    found = entries(tmp_path / "runs" / "s")
    assert [trial["status"] for trial in found.values()] == ["done"] * 4
    assert sum(line.startswith("[") for line in err.splitlines()) == 4
    first, second = (trial["val_bits_per_dim"] for trial in list(found.values())[:2])
    rates = [trial["parameters"]["training.learning_rate"] for trial in found.values()]
    assert rates[1] < rates[0] / 3  # alone it would be far behind
    assert second < first + 0.1
