"""Placement groups of stopped trainings are removed."""

import time

import pytest

from raypixel.train.placement import FILE_NAME, GroupRemover, note_group, remove_group


@pytest.mark.ray
def test_reaper_removes_the_group_that_a_worker_wrote_down(tmp_path, ray_cluster):
    import ray
    from ray.util import placement_group, placement_group_table
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = placement_group([{"CPU": 1}])
    ray.get(group.ready(), timeout=60)
    strategy = PlacementGroupSchedulingStrategy(placement_group=group)
    note = ray.remote(num_cpus=1, scheduling_strategy=strategy)(note_group)
    ray.get(note.remote(tmp_path), timeout=60)

    GroupRemover().add(tmp_path)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and placement_group_table(group)["state"] != "REMOVED":
        time.sleep(0.1)
    assert placement_group_table(group)["state"] == "REMOVED"
    assert not (tmp_path / FILE_NAME).exists()


@pytest.mark.ray
@pytest.mark.parametrize("text", [None, "", "ab", "a13739328b806aeb16e95d7b135701000000"])
def test_no_group_a_damaged_file_and_a_group_of_another_cluster_do_no_harm(
    tmp_path, ray_cluster, text
):
    if text is not None:
        (tmp_path / FILE_NAME).write_text(text)
    from ray.util.placement_group import placement_group_table

    groups = placement_group_table()
    remove_group(tmp_path)
    assert placement_group_table() == groups
