"""What a sweep costs beside its training: overhead, and many trials.

    python benchmarks/sweep.py               8 trials of about 30 s, 2 at a time, and 200 trivial ones
    python benchmarks/sweep.py --seconds 5 --many 20

Overhead is the wall time of the whole command, from the shell's start of Python to its exit, over the sum of the trials' own
training time divided by the number at once. The floor is 1. The memory is that of the driver's process, read from
/proc while the trials end; a driver that keeps nothing of a finished trial grows by nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

AT_ONCE = 2
PROBE_STEPS = 200
TINY = {"model.num_layers": 1, "model.hidden_size": 4, "data.max_train_images": 64, "data.max_eval_images": 64}  # fmt: skip


def write(folder: Path, name: str, parameters: dict[str, Any]) -> Path:
    """Write a sweep of digits; every parameter is a list."""
    mapping = {
        "name": name,
        "parameters": {key: {"values": values} for key, values in parameters.items()},
        "raypixel": {"base": "digits_pixelcnn", "max_concurrent": AT_ONCE},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(mapping))
    return path


def run(
    folder: Path, name: str, parameters: dict[str, Any]
) -> tuple[float, dict[str, Any], list[tuple[int, float]]]:
    """Run it and return wall seconds, trials.json, and pairs of ended trials and the driver's resident MiB."""
    path = write(folder, name, parameters)
    trials = folder / "runs" / name / "trials.json"
    memory: list[tuple[int, float]] = []
    started = time.perf_counter()
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "raypixel", "sweep", str(path)],
            cwd=folder,
            env={k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))},
            stdout=log,
            stderr=log,
        )
        while process.poll() is None:
            time.sleep(1)
            ended = ended_of(trials)
            if ended:
                memory.append((ended, resident_mib(process.pid)))
    seconds = time.perf_counter() - started
    if process.returncode:
        sys.exit((folder / f"{name}.log").read_text()[-2000:])
    return seconds, json.loads(trials.read_text()), [m for m in memory if m[1]]


def ended_of(path: Path) -> int:
    """Return how many trials of a trials.json are over."""
    if not path.exists():
        return 0
    return sum(t["status"] != "running" for t in json.loads(path.read_text())["trials"])


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process, 0 if it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    lines = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(lines[0].split()[1]) / 1024 if lines else 0.0


def overhead(folder: Path, num_trials: int, seconds: float) -> None:
    """Print the wall time of trials of a given length over their training time."""
    probe = {"training.max_steps": [PROBE_STEPS], "training.num_epochs": [1000]}
    _, found, _ = run(folder, "probe", {**probe, "training.seed": [0, 1]})
    step = fmean(t["seconds"] for t in found["trials"]) / PROBE_STEPS
    steps = max(1, round(seconds / step))
    sweep = {"training.max_steps": [steps], "training.num_epochs": [100_000]}
    wall, found, _ = run(folder, "overhead", {**sweep, "training.seed": list(range(num_trials))})
    pure = [t["seconds"] for t in found["trials"]]
    floor = sum(pure) / AT_ONCE
    print(f"{num_trials} trials of {fmean(pure):.1f} s ({steps} steps), {AT_ONCE} at once")
    print(f"  wall {wall:.1f} s, training / {AT_ONCE} {floor:.1f} s: {wall / floor:.3f} (bar 1.25)")
    print(f"  {(wall - floor):.1f} s beside the training: start, data, validation, test, records")


def many(folder: Path, num_trials: int) -> None:
    """Print whether trivial trials are all recorded, and the driver's memory."""
    parameters: dict[str, Any] = {key: [value] for key, value in TINY.items()}
    parameters |= {"training.max_steps": [2], "training.num_epochs": [1]}
    wall, found, memory = run(folder, "many", {**parameters, "training.seed": list(range(num_trials))})  # fmt: skip
    done = [t for t in found["trials"] if t["status"] == "done" and t["test"]]
    print(
        f"{num_trials} trivial trials: {len(done)} done, {recorded(folder)} in MLflow, {wall:.0f} s"
    )
    early = [mib for ended, mib in memory if ended <= num_trials // 4]
    late = [mib for ended, mib in memory if num_trials * 3 // 4 <= ended < num_trials]
    if early and late:
        growth = (fmean(late) - fmean(early)) / (num_trials // 2)
        print(
            f"  driver {fmean(early):.0f} MiB in the first quarter, {fmean(late):.0f} in the last"
        )
        print(f"  {growth * 1024:.0f} KiB a trial")


def recorded(folder: Path) -> int:
    """Return the trials that MLflow has as finished, with their test likelihood."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("raypixel")
    where = "metrics.`best/test/bits_per_dim` > 0 and attributes.status = 'FINISHED'"
    runs: list[Any] = []
    token = None
    while True:
        page = client.search_runs([experiment.experiment_id], where, page_token=token)
        runs += [r for r in page if r.data.params.get("training.max_steps") == "2"]
        token = page.token
        if not token:
            return len(runs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--trials", type=int, default=8, help="trials of the overhead (8)")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each (30)")
    parser.add_argument("--many", type=int, default=200, help="trivial trials (200)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if options.trials:
            overhead(Path(name), options.trials, options.seconds)
        if options.many:
            many(Path(name), options.many)
