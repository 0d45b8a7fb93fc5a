"""What a sweep costs beside its training: overhead, and many trials, also on several machines of which one dies.

    python benchmarks/sweep.py               8 trials of about 30 s, 2 at a time, and 200 trivial ones
    python benchmarks/sweep.py --seconds 5 --many 20
    python benchmarks/sweep.py --trials 0 --many 1000 --nodes 4 --kill

Overhead is the wall time of the whole command, from the shell's start of Python to its exit, over the sum of the trials' own
training time divided by the number at once. The floor is 1. The memory is that of the driver's process, read from
/proc while the trials end; a driver that keeps nothing of a finished trial grows by nothing.

With `--nodes` the trivial trials run on a Ray cluster of a head and that many nodes of one CPU, all on this machine. With
`--kill` all processes of one node end by SIGKILL once half of the trials are over. Every trial is then looked for in
trials.json and in MLflow.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

AT_ONCE = 2
HEAD = {"num_cpus": 0, "include_dashboard": False}
PROBE_STEPS = 200
TINY = {"model.num_layers": 1, "model.hidden_size": 4, "data.max_train_images": 64, "data.max_eval_images": 64}  # fmt: skip


def write(folder: Path, name: str, parameters: dict[str, Any], *, at_once: int) -> Path:
    """Write a sweep of digits; every parameter is a list."""
    mapping = {
        "name": name,
        "parameters": {key: {"values": values} for key, values in parameters.items()},
        "raypixel": {"base": "digits_pixelcnn", "max_concurrent": at_once},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(mapping))
    return path


@dataclass
class Outcome:
    """What a sweep left.

    Attributes:
        seconds: Wall time of the command.
        code: Its exit code.
        found: trials.json.
        memory: Pairs of ended trials and the driver's resident MiB, five each second.
        log: What it printed.
    """

    seconds: float
    code: int
    found: dict[str, Any]
    memory: list[tuple[int, float]]
    log: str


def run(
    folder: Path,
    name: str,
    parameters: dict[str, Any],
    *words: str,
    at_once: int = AT_ONCE,
    when_ended: Callable[[int], None] | None = None,
) -> Outcome:
    """Run it; `when_ended` is told five times a second how many trials are over."""
    path = write(folder, name, parameters, at_once=at_once)
    trials = folder / "runs" / name / "trials.json"
    memory: list[tuple[int, float]] = []
    started = time.perf_counter()
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "raypixel", "sweep", str(path), *words],
            cwd=folder,
            env={k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))},
            stdout=log,
            stderr=log,
        )
        while process.poll() is None:
            time.sleep(0.2)
            ended = ended_of(trials)
            if when_ended is not None:
                when_ended(ended)
            if ended:
                memory.append((ended, resident_mib(process.pid)))
    seconds = time.perf_counter() - started
    text = (folder / f"{name}.log").read_text()
    if not trials.exists():
        sys.exit(text[-2000:])
    known = [m for m in memory if m[1]]
    return Outcome(seconds, process.returncode, json.loads(trials.read_text()), known, text)


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
    probed = run(folder, "probe", {**probe, "training.seed": [0, 1]})
    step = fmean(t["seconds"] for t in probed.found["trials"]) / PROBE_STEPS
    steps = max(1, round(seconds / step))
    sweep = {"training.max_steps": [steps], "training.num_epochs": [100_000]}
    done = run(folder, "overhead", {**sweep, "training.seed": list(range(num_trials))})
    pure = [t["seconds"] for t in done.found["trials"]]
    wall, floor = done.seconds, sum(pure) / AT_ONCE
    print(f"{num_trials} trials of {fmean(pure):.1f} s ({steps} steps), {AT_ONCE} at once")
    print(f"  wall {wall:.1f} s, training / {AT_ONCE} {floor:.1f} s: {wall / floor:.3f} (bar 1.25)")
    print(f"  {(wall - floor):.1f} s beside the training: start, data, validation, test, records")


def many(folder: Path, num_trials: int, *, num_nodes: int, is_killed: bool) -> None:
    """Print where each of many trivial trials is found afterwards, and the driver's memory."""
    parameters: dict[str, Any] = {key: [value] for key, value in TINY.items()}
    parameters |= {"training.max_steps": [2], "training.num_epochs": [1]}
    parameters["training.seed"] = list(range(num_trials))
    if not num_nodes:
        outcome = run(folder, "many", parameters)
    else:
        with nodes(num_nodes) as (address, kill_one):
            kill = _Once(kill_one, num_trials // 2) if is_killed else None
            outcome = run(
                folder, "many", parameters, "--address", address, at_once=num_nodes, when_ended=kill
            )
            if kill is not None:
                print(f"one of {num_nodes} nodes killed when {kill.ended} trials were over")
    account(folder, outcome, num_trials)
    print_memory(outcome.memory, num_trials)


class _Once:
    """Do something once so many trials are over."""

    def __init__(self, act: Callable[[], None], threshold: int) -> None:
        self.act = act
        self.threshold = threshold
        self.ended: int | None = None

    def __call__(self, ended: int) -> None:
        if self.ended is None and ended >= self.threshold:
            self.ended = ended
            self.act()


@contextmanager
def nodes(count: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """Run a cluster of a head without CPUs and nodes of one; yield its address, and what kills a node."""
    import psutil

    from raypixel.train import ray_cluster

    ray_cluster.prepare_environment()
    ray_cluster.ensure_token()
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=HEAD)
    started = [cluster.add_node(num_cpus=1) for _ in range(count)]

    def kill_one() -> None:
        node = started.pop()
        own = [info.process.pid for infos in node.all_processes.values() for info in infos]
        everything = [psutil.Process(pid) for pid in own]
        everything += [child for each in everything for child in each.children(recursive=True)]
        for process in everything:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        cluster.remove_node(node, allow_graceful=False)  # forgets it

    try:
        yield cluster.address, kill_one
    finally:
        cluster.shutdown()


def account(folder: Path, outcome: Outcome, num_trials: int) -> None:
    """Print how many of the trials are where they belong: once in trials.json and once in MLflow, finished in both."""
    trials = outcome.found["trials"]
    asked = set(range(num_trials))
    done = {t["seed"] for t in trials if t["status"] == "done" and t["test"]}
    statuses = Counter(t["status"] for t in trials)
    runs = recorded(folder)
    finished = {seed for seed, statuses in runs.items() if statuses == ["FINISHED"]}
    elsewhere = Counter(s for each in runs.values() for s in each if s != "FINISHED")
    retried = [t["retries"] for t in trials if t["retries"]]
    rows = {
        "trials asked for": num_trials,
        "done, with a test likelihood, in trials.json": len(done & asked),
        "in trials.json otherwise": {k: n for k, n in statuses.items() if k != "done"} or 0,
        "missing there, or there twice": len(asked - {t["seed"] for t in trials})
        + len(trials)
        - len({t["seed"] for t in trials}),
        "finished once in MLflow, with a test likelihood": len(finished & asked),
        "MLflow runs in another state": dict(elsewhere) or 0,
        "missing there, or there twice ": len(asked - set(runs))
        + sum(len(each) > 1 for each in runs.values()),
        "retried": f"{len(retried)} ({sum(retried)} times)" if retried else 0,
        "exit code": outcome.code,
        "wall time, s": round(outcome.seconds),
    }
    for name, value in rows.items():
        print(f"  {name.strip():50} {value}")
    if outcome.code or len(done & finished & asked) < num_trials:
        print(outcome.log[-3000:], file=sys.stderr)


def print_memory(memory: list[tuple[int, float]], num_trials: int) -> None:
    """Print how the driver's memory grew."""
    early = [mib for ended, mib in memory if ended <= num_trials // 4]
    late = [mib for ended, mib in memory if num_trials * 3 // 4 <= ended < num_trials]
    if early and late:
        growth = (fmean(late) - fmean(early)) / (num_trials // 2)
        print(
            f"  driver {fmean(early):.0f} MiB in the first quarter, {fmean(late):.0f} in the last, "
            f"{max(mib for _, mib in memory):.0f} at most; {growth * 1024:.0f} KiB a trial"
        )


def recorded(folder: Path) -> dict[int, list[str]]:
    """Return the states of the runs of each trial's seed in MLflow; without a test likelihood one is not finished."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("raypixel")
    found: dict[int, list[str]] = {}
    token = None
    while True:
        page = client.search_runs([experiment.experiment_id], page_token=token)
        for each in page:
            if each.data.params.get("training.max_steps") != "2":
                continue
            state = each.info.status
            if state == "FINISHED" and not each.data.metrics.get("best/test/bits_per_dim"):
                state = "FINISHED without a likelihood"
            found.setdefault(int(each.data.params["training.seed"]), []).append(state)
        token = page.token
        if not token:
            return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--trials", type=int, default=8, help="trials of the overhead (8)")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each (30)")
    parser.add_argument("--many", type=int, default=200, help="trivial trials (200)")
    parser.add_argument(
        "--nodes", type=int, default=0, help="run these on a cluster of so many nodes of one CPU"
    )
    parser.add_argument("--kill", action="store_true", help="kill one of the nodes halfway")
    options = parser.parse_args()
    if options.kill and options.nodes < 2:
        parser.error("--kill needs --nodes of 2 or more")
    with tempfile.TemporaryDirectory() as name:
        if options.trials:
            overhead(Path(name), options.trials, options.seconds)
        if options.many:
            many(Path(name), options.many, num_nodes=options.nodes, is_killed=options.kill)
