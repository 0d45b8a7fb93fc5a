"""What raypixel uses of Ray that Ray does not promise to keep: all of it is here, with what it is for.

A Ray that lacks one of these parts is refused with a sentence where the part is used, and by a test for each before that. The
range of Ray in pyproject.toml ends at the minors whose parts were tested.
"""

import contextlib
import copy
import functools
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raypixel.errors import RaypixelError

SIMULATED_NODES = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
"""Ray's provider of pretended machines, as an autoscaler's file names it."""
SIMULATED_HEAD_TYPE = "ray.head.default"
SIMULATED_HEAD_ID = "f" * 51 + "00000"
"""What that provider takes for the head's type and for its node."""
OUT_OF_MEMORY = "OutOfMemoryError: Ray ended the trial's process, its machine was short of memory"


@contextlib.contextmanager
def _part_for(use: str) -> Iterator[None]:
    """Say in a sentence that this Ray lacks what the body looks for."""
    try:
        yield
    except (ImportError, AttributeError, OSError) as error:
        import ray

        raise RaypixelError(
            f"{use} needs a part of Ray that {ray.__version__} does not have ({error}): "
            "install one of the versions that pyproject.toml names"
        ) from None


def worker_callback() -> type:
    """Return Ray Train's base class of what is called in each worker, `before_worker_shutdown` among it."""
    with _part_for("a training that saves before its workers are ended"):
        from ray.train.v2._internal.execution.callback import WorkerCallback

        _ = WorkerCallback.before_worker_shutdown
    return WorkerCallback


def abandoned_groups() -> list[str]:
    """Return the ids of this job's placement groups whose maker, an actor, is dead: nobody else removes them."""
    with _part_for("a sweep that frees what a stopped trial had"):
        from ray._private.state import state
        from ray.core.generated.gcs_pb2 import PlacementGroupTableData

        rows = state._connect_and_get_accessor().get_placement_group_table()
        groups = [PlacementGroupTableData.FromString(row) for row in rows]
        removed = PlacementGroupTableData.REMOVED
    import ray

    job = ray.get_runtime_context().get_job_id()
    return [
        group.placement_group_id.hex()
        for group in groups
        if group.creator_actor_dead
        and group.state != removed
        and group.creator_job_id.hex() == job
        and not group.is_detached
        and group.creator_actor_id.strip(b"\xff")  # a driver's groups are of no actor
    ]


def let_trials_run_out_of_memory() -> None:
    """Have Ray Tune take an actor that was ended for want of memory as one that died.

    Ray has an error of its own for it, which Tune does not expect: the whole sweep would end.
    """
    with _part_for("a sweep in which a trial may run out of memory"):
        from ray.air.execution._internal.actor_manager import RayActorManager

        failed = RayActorManager._actor_task_failed
    from ray.exceptions import OutOfMemoryError, RayActorError

    if hasattr(failed, "__wrapped__"):  # done before
        return

    @functools.wraps(failed)
    def expecting(manager: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):
            exception = RayActorError(error_msg=OUT_OF_MEMORY)
        failed(manager, tracked_actor_task, exception)

    RayActorManager._actor_task_failed = expecting


def serve_host() -> str:
    """Return the address that Ray Serve listens on; if it cannot be known, a word that is no loopback address."""
    with _part_for("a service that asks for keys where other machines can reach it"):
        from ray.serve.context import _get_global_client
    options = getattr(_get_global_client(), "http_config", None)
    return str(getattr(options, "host", "unknown"))


def launcher_schema() -> dict[str, Any]:
    """Return the JSON schema of `ray up` files."""
    import ray.autoscaler

    with _part_for("a check of `ray up` files"):
        text = (Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text()
    return dict(json.loads(text))


def prepared_launcher_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a `ray up` file's content with Ray's defaults filled in, as `ray up` does.

    Raises:
        Exception: Whatever Ray's check raises.
    """
    with _part_for("a check of `ray up` files"):
        from ray.autoscaler._private.util import prepare_config, validate_config
    level = logging.getLogger("ray.autoscaler").level
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        prepared = prepare_config(copy.deepcopy(config))
        validate_config(prepared)
    logging.getLogger("ray.autoscaler").setLevel(level)
    return dict(prepared)


def simulated_nodes(address: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the provider of pretended machines for an autoscaler's file, and the environment of the head that runs it.

    Args:
        address: Of the head, host:port.
    """
    with _part_for("a simulation of an autoscaler"):
        from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider

        assert (
            f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}"
            == SIMULATED_NODES
        )
    provider = {
        "type": "external",
        "module": SIMULATED_NODES,
        "gcs_address": address,
        "head_node_id": SIMULATED_HEAD_ID,
        "launch_multiple": True,
    }
    environment = {
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": SIMULATED_HEAD_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": SIMULATED_HEAD_ID,
    }
    return provider, environment
