"""A place in storage is held by one process at a time."""

import json
import os
import subprocess
from datetime import datetime, timedelta

import pytest

from raypixel import storage
from raypixel.errors import CheckpointError
from raypixel.runs import claim
from raypixel.runs import lease as lease_module
from raypixel.runs.lease import OBJECT, lease


def test_second_process_is_refused_while_the_first_holds_it(bucket):
    place = bucket / "run"
    with (
        claim(place),
        pytest.raises(CheckpointError, match=rf"^{place}: is being trained by process \d+ on"),
    ):
        claim(place).__enter__()
    assert storage.read_bytes(place / OBJECT) is None
    with claim(place):
        pass


def test_process_of_this_machine_that_has_died_holds_nothing(bucket):
    process = subprocess.Popen(["true"])
    process.wait()
    put(bucket, lease_module._host(), process.pid)
    with lease(bucket / "run"):
        assert json.loads(storage.read_bytes(bucket / "run" / OBJECT))["process"] == os.getpid()


def test_lease_of_another_machine_runs_out(bucket, monkeypatch):
    put(bucket, "elsewhere", 1)
    with pytest.raises(
        CheckpointError, match=r"process 1 on elsewhere, seen \d s ago; if that has"
    ):
        lease(bucket / "run").__enter__()
    monkeypatch.setattr(lease_module, "SECONDS_FRESH", 0.0)
    with lease(bucket / "run"):
        pass


@pytest.mark.parametrize("hours", [-1, 1])
def test_this_machines_clock_does_not_matter(bucket, monkeypatch, hours):
    class Wrong(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(hours=hours)

    monkeypatch.setattr(lease_module, "datetime", Wrong)
    put(bucket, "elsewhere", 1)
    with pytest.raises(
        CheckpointError, match=r"seen \d s ago; if that has died, try again in \d\d s$"
    ):
        lease(bucket / "run").__enter__()
    assert list(storage.list_files(bucket / "run")) == [OBJECT]


def put(bucket, host: str, process: int) -> None:
    own = {"id": "0", "host": host, "process": process}
    storage.write_bytes(bucket / "run" / OBJECT, json.dumps(own).encode())
