"""Ray has the private parts that raypixel uses; a Ray that lacks one is refused with a sentence; nobody else uses any."""

import inspect
import re
import sys
from pathlib import Path

import pytest
import ray
import ray.autoscaler
from ray.air.execution import FixedResourceManager
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.air.execution._internal.tracked_actor import TrackedActor
from ray.air.execution._internal.tracked_actor_task import TrackedActorTask
from ray.autoscaler._private.fake_multi_node import node_provider
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.serve._private.client import ServeControllerClient
from ray.serve.context import _get_global_client

import raypixel
from raypixel.errors import RaypixelError
from raypixel.train import ray_private

PACKAGE = Path(raypixel.__file__).parent
LACKS = rf"needs a part of Ray that {re.escape(ray.__version__)} does not have \(.*pyproject.toml"


def test_worker_callback_is_called_before_a_worker_ends():
    callback = ray_private.worker_callback()
    assert callback().before_worker_shutdown() is None


def test_tune_takes_an_actor_that_ran_out_of_memory_as_one_that_died(monkeypatch):
    monkeypatch.setattr(RayActorManager, "_actor_task_failed", RayActorManager._actor_task_failed)
    for _ in range(2):
        ray_private.let_trials_run_out_of_memory()
    manager, told = RayActorManager(FixedResourceManager({"CPU": 1})), []
    actor = TrackedActor(1, on_error=lambda actor, error: told.append(error))
    task = TrackedActorTask(actor, on_error=lambda actor, error: told.append(error))
    manager._cleanup_actor = lambda tracked_actor: None
    manager._actor_task_failed(tracked_actor_task=task, exception=OutOfMemoryError("low"))
    assert [type(error) for error in told] == [RayActorError] * 2
    assert {str(error) for error in told} == {ray_private.OUT_OF_MEMORY}


def test_serve_host_is_read_off_a_client_that_has_it():
    # what a running service answers is tested in tests/serving/test_ray_serve.py
    assert isinstance(ServeControllerClient.http_config, property)
    assert "raise_if_no_controller_running" in inspect.signature(_get_global_client).parameters


def test_launcher_schema_knows_the_keys_of_a_launcher_file():
    schema = ray_private.launcher_schema()
    assert {"cluster_name", "provider", "available_node_types"} <= set(schema["properties"])


def test_launcher_config_gets_its_defaults_and_the_given_one_stays():
    config = {
        "cluster_name": "c",
        "provider": {"type": "local", "head_ip": "1.2.3.4", "worker_ips": []},
    }
    config["auth"] = {"ssh_user": "u"}
    prepared = ray_private.prepared_launcher_config(config)
    assert prepared["head_node_type"] in prepared["available_node_types"]
    assert "head_node_type" not in config


def test_simulated_nodes_are_those_that_the_provider_reads():
    provider, environment = ray_private.simulated_nodes("127.0.0.1:6379")
    source = Path(node_provider.__file__).read_text()
    assert all(f'"{key}"' in source for key in provider if key != "type" and key != "module")
    assert environment["RAY_OVERRIDE_NODE_ID_FOR_TESTING"] == provider["head_node_id"]


@pytest.mark.parametrize(
    ("use", "part"),
    [
        (ray_private.worker_callback, "ray.train.v2._internal.execution.callback"),
        (ray_private.abandoned_groups, "ray._private.state"),
        (ray_private.serve_host, "ray.serve.context"),
        (
            ray_private.let_trials_run_out_of_memory,
            "ray.air.execution._internal.actor_manager",
        ),
        (lambda: ray_private.prepared_launcher_config({}), "ray.autoscaler._private.util"),
        (
            lambda: ray_private.simulated_nodes("a:1"),
            ray_private.SIMULATED_NODES.rpartition(".")[0],
        ),
    ],
)
def test_ray_without_the_part_is_refused_with_a_sentence(monkeypatch, use, part):
    monkeypatch.setitem(sys.modules, part, None)
    with pytest.raises(RaypixelError, match=LACKS):
        use()


def test_ray_without_the_schema_is_refused_with_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(ray.autoscaler, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(RaypixelError, match=LACKS):
        ray_private.launcher_schema()


def test_private_parts_are_used_in_one_file():
    private = re.compile(r"\bray(\.\w+)*\._[a-z]|from ray\b.* import .*\b_[a-z]|ray-schema")
    found = {
        str(p.relative_to(PACKAGE)) for p in PACKAGE.rglob("*.py") if private.search(p.read_text())
    }
    assert found == {"train/ray_private.py"}
