"""The real autoscaler, over the node types of our own files, brings machines for a demand and takes them away again."""

import subprocess
import sys
from pathlib import Path

import pytest

from raypixel.cluster.simulate import Demand, demand_of, simulate
from raypixel.errors import ConfigError, RaypixelError
from raypixel.sweeps import load_sweep

ROOT = Path(__file__).parents[2]
AWS = ROOT / "cluster/ray-cluster.yaml"


def refused(path, resources):
    simulate(path, Demand(resources, 1, 1.0), on_change=lambda change: None)


def test_demand_is_that_of_the_sweeps_trials():
    sweep = load_sweep(ROOT / "sweeps/quickstart.yaml", {})
    assert demand_of(sweep, seconds=2.0, most=9) == Demand({"CPU": 1.0, "GPU": 1.0}, 4, 2.0)
    assert demand_of(sweep, seconds=2.0, most=3).count == 3


def test_demand_that_no_machine_holds_is_refused_before_anything_starts():
    with pytest.raises(RaypixelError, match=r"a node type must hold .*8.*, got gpu_spot"):
        refused(AWS, {"CPU": 1.0, "GPU": 8.0})


def test_cluster_without_an_autoscaler_is_refused():
    with pytest.raises(
        RaypixelError, match="must have an autoscaler to simulate, got provider local"
    ):
        refused(ROOT / "cluster/local.yaml", {"CPU": 1.0})


def test_file_with_problems_is_refused(tmp_path):
    (tmp_path / "x.yaml").write_text(AWS.read_text().replace("max_workers: 8", "max_worker: 8", 1))
    with pytest.raises(ConfigError, match="did you mean 'max_workers'"):
        refused(tmp_path / "x.yaml", {"CPU": 1.0})


@pytest.mark.ray
@pytest.mark.slow
def test_machines_come_for_a_sweep_and_go_when_it_is_done():
    command = [sys.executable, "-m", "raypixel", "cluster", "simulate", str(AWS)]
    options = ["--sweep", str(ROOT / "sweeps/quickstart.yaml"), "--seconds", "2", "--most", "2"]
    run = subprocess.run([*command, *options], capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr
    changes = [line.split(" s  ")[1].split() for line in run.stdout.splitlines()]
    ups = [words for words in changes if words[0] == "+"]
    assert ups
    assert {words[1] for words in ups} == {"gpu_spot"}
    done = next(k for k, words in enumerate(changes) if words[0] == "all")
    assert all(changes.index(words) < done for words in ups)
    assert (changes[-1][0], changes[-1][2:]) == ("-", ["0", "up"])
    listing = subprocess.run(["ps", "-axo", "command="], capture_output=True, text=True).stdout
    assert "/tmp/rpx" not in listing  # nothing is left behind
