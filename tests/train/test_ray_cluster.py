"""Ray's runtime as this process starts it, and what a cluster may yet become."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from raypixel.config import load_yaml
from raypixel.train import ray_cluster
from raypixel.train.ray_cluster import missing_nodes, remove_abandoned_groups

ROOT = Path(__file__).parents[2]
HEAD = {"CPU": 4.0, "raypixel_driver": 1.0}
GPU = {"CPU": 8.0, "GPU": 1.0}


def test_processes_that_make_the_token_at_once_agree_on_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    path, barrier = tmp_path / ".ray" / "auth_token", Barrier(8)

    def make(_: int) -> str:
        barrier.wait()
        ray_cluster.ensure_token()
        return path.read_text()

    with ThreadPoolExecutor(8) as pool:
        tokens = set(pool.map(make, range(8)))
    assert [len(token) for token in tokens] == [64]
    assert [file.name for file in path.parent.iterdir()] == ["auth_token"]
    assert path.stat().st_mode & 0o077 == 0


def test_an_address_where_nothing_listens_is_refused_at_once():
    code = "from raypixel.train import ray_cluster\nwith ray_cluster.cluster('127.0.0.1:1'): pass"
    # a process of its own: one that is connected already stays so. Ray alone tries for a quarter of an hour
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    expected = (
        "RaypixelError: no Ray cluster answers at 127.0.0.1:1: [Errno 111] Connection refused"
    )
    assert expected in process.stderr


@pytest.mark.parametrize(("num_alive", "num_missing"), [(0, 8), (1, 7), (8, 0), (9, 0)])
def test_machines_alive_and_missing_add_up_to_the_most_that_the_file_allows(num_alive, num_missing):
    config = load_yaml(ROOT / "cluster" / "ray-cluster.yaml")
    assert missing_nodes(config, [HEAD] + [GPU] * num_alive) == [GPU] * num_missing


def test_types_have_their_own_limits_and_the_first_choice_comes_first():
    kinds = {
        "head": {"resources": {"CPU": 4}},
        "small": {"resources": {"CPU": 2}, "max_workers": 2},
        "large": {"resources": {"CPU": 8}, "max_workers": 1, "priority": 5},
    }
    config = {"max_workers": 10, "head_node_type": "head", "available_node_types": kinds}
    assert missing_nodes(config, [HEAD]) == [{"CPU": 8.0}, {"CPU": 2.0}, {"CPU": 2.0}]
    assert missing_nodes(config, [HEAD, {"CPU": 2.0}]) == [{"CPU": 8.0}, {"CPU": 2.0}]
    assert missing_nodes(config | {"max_workers": 1}, [HEAD]) == [{"CPU": 8.0}]


@pytest.mark.ray
def test_groups_of_a_dead_actor_are_removed_and_no_others(ray_cluster):
    import ray
    from ray.util import placement_group, placement_group_table, remove_placement_group

    @ray.remote(num_cpus=0)
    class Maker:
        def make(self):
            group = placement_group([{"CPU": 0.1}])
            ray.get(group.ready(), timeout=60)
            return group

    def states():
        return [placement_group_table(group)["state"] for group in groups]

    dying, living = Maker.remote(), Maker.remote()
    own = placement_group([{"CPU": 0.1}])
    ray.get(own.ready(), timeout=60)
    groups = [*ray.get([dying.make.remote(), living.make.remote()]), own]
    remove_abandoned_groups()
    assert states() == ["CREATED", "CREATED", "CREATED"]

    ray.kill(dying)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and states()[0] != "REMOVED":
        remove_abandoned_groups()
        time.sleep(0.1)
    assert states() == ["REMOVED", "CREATED", "CREATED"]
    for group in groups[1:]:
        remove_placement_group(group)
