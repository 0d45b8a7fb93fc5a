"""What a cluster may yet become counts, and no machine counts twice."""

from pathlib import Path

import pytest

from raypixel.config import load_yaml
from raypixel.jobs.autoscaling import missing_nodes

ROOT = Path(__file__).parents[2]
HEAD = {"CPU": 4.0, "raypixel_driver": 1.0}
GPU = {"CPU": 8.0, "GPU": 1.0}


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
