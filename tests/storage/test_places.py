"""Places in storage are told from folders, and survive what happens to paths."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from raypixel.errors import CheckpointError, ConfigError
from raypixel.storage import Remote, absolute, access, location, named, working_copy


def test_address_keeps_its_slashes_through_what_is_done_to_paths():
    place = location("s3://bucket/runs") / "name"
    assert isinstance(place, Remote)
    assert str(place) == "s3://bucket/runs/name"
    assert str(place.parent) == "s3://bucket/runs"
    assert str(place.with_name("other")) == "s3://bucket/runs/other"
    assert (place.bucket, place.key, place.name) == ("bucket", "bucket/runs/name", "name")
    assert str(location("s3://bucket")) == "s3://bucket"
    assert pickle.loads(pickle.dumps(place)) == place
    assert absolute(place) == place


def test_address_that_a_path_has_shortened_is_understood():
    assert str(location(str(Path("s3://bucket/runs")))) == "s3://bucket/runs"


def test_folder_stays_a_path(tmp_path):
    assert location(str(tmp_path)) == tmp_path
    assert absolute(Path("x")) == Path.cwd() / "x"


@pytest.mark.parametrize("text", ["gs://bucket/x", "s3://", "http://host/x", "s3://bucket/../x"])
def test_other_addresses_are_refused(text):
    with pytest.raises(ConfigError, match=r"a location must be a path or s3://BUCKET/NAME, got"):
        location(text)


def test_place_is_never_opened_as_a_file():
    with pytest.raises(TypeError, match="s3://bucket/x is no file of this machine"):
        os.fspath(Remote("s3://bucket/x"))


def test_working_copies_of_two_servers_and_purposes_do_not_meet(monkeypatch, tmp_path):
    monkeypatch.setenv("RAYPIXEL_CACHE", str(tmp_path))
    place, copies = Remote("s3://bucket/x"), set()
    for server in ("http://one:1", "http://two:1"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", server)
        copies |= {working_copy(place, purpose=purpose) for purpose in ("runs", "work")}
    assert len(copies) == 4
    assert all(copy.is_relative_to(tmp_path) for copy in copies)


def test_problem_in_a_working_copy_names_the_place(tmp_path):
    place = Remote("s3://bucket/x")
    with (
        pytest.raises(CheckpointError, match=r"^s3://bucket/x/run.json: is damaged$"),
        named(tmp_path, place),
    ):
        raise CheckpointError(f"{tmp_path}/run.json: is damaged")


def test_settings_are_handed_on_and_their_secret_is_not_shown(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    settings = pickle.loads(pickle.dumps(access()))
    assert "hunter2" not in repr(settings)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    settings.use()
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "hunter2"


def test_a_machine_keeps_the_cache_that_it_names_and_takes_another_otherwise():
    environment = {k: v for k, v in os.environ.items() if "RAYPIXEL_CACHE" not in k}

    def cache_of(own: dict[str, str], *given: str) -> str:
        calls = "; ".join(f"Access({{'RAYPIXEL_CACHE': {path!r}}}).use()" for path in given)
        program = f"from raypixel.storage import Access; {calls}; import os; print(os.environ['RAYPIXEL_CACHE'])"
        command = [sys.executable, "-c", program]
        run = subprocess.run(command, env=environment | own, capture_output=True, text=True)
        return run.stdout.strip()

    assert cache_of({}, "/driver") == "/driver"
    assert cache_of({"RAYPIXEL_CACHE": "/own"}, "/driver") == "/own"
    assert cache_of({}, "/driver", "/later") == "/later"  # a process that is used again
