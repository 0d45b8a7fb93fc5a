"""Laws of opening a store."""

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from raypixel.runs.tracking import Publisher, Record, TrackingError, store
from tests.runs.tracking.stores import client_of, free_port, no_warning, runs_of

# says that all is imported, and waits for a line, so that several open the store within milliseconds
OPEN_WHEN_TOLD = """
import sys

import mlflow.store.tracking.sqlalchemy_store

from raypixel.runs.tracking import Publisher, Record

print("ready", flush=True)
key = sys.stdin.readline().strip()
publisher = Publisher(experiment="first", warn=print)
publisher.finish(publisher.follow_sweep(lambda: Record("run", key, {}, {})), "done")
sys.exit(not publisher.close())
"""


@pytest.mark.slow
def test_processes_that_create_one_store_at_once_all_open_it(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN_WHEN_TOLD],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(3)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for number, process in enumerate(processes):
            assert process.stdin is not None
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
        printed = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0, 0], "\n".join(printed)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    names = sorted(experiment.name for experiment in client_of(uri).search_experiments())
    assert names == ["Default", "first"]
    assert [run.info.status for run in runs_of(uri, "first")] == ["FINISHED"] * 3


def test_a_store_that_another_process_keeps_locked_is_waited_for_and_then_named(
    database: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = database.with_name(".mlflow.db.lock")
    monkeypatch.setattr(store, "_LOCK_WAIT_S", 0.2)
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        rule = f"got '{uri}': {lock} must be free within 0.2 s, got another process that"
        with pytest.raises(TrackingError, match=rule):
            Publisher(experiment="tests", uri=uri, warn=no_warning)
        threading.Timer(0.5, file.close).start()
        monkeypatch.setattr(store, "_LOCK_WAIT_S", 60.0)
        Publisher(experiment="tests", uri=uri, warn=no_warning).close()
        assert file.closed


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("http://127.0.0.1:{port}", "Connection refused"),
        ("htp://somewhere", "got unsupported URI"),
        ("{folder}/mlruns", "filesystem tracking backend"),
        ("sqlite:///{folder}", "unable to open database file"),
        ("sqlite:////proc/none/mlflow.db", "No such file or directory"),
        ("sqlite:///{folder}/text.db", "file is not a database"),
    ],
)
def test_a_store_that_does_not_open_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uri: str, reason: str
) -> None:
    (tmp_path / "text.db").write_text("this is not a database " * 100)
    uri = uri.format(folder=tmp_path, port=free_port())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    rule = f"^MLFLOW_TRACKING_URI must name an MLflow store that opens, got '{uri}': .*{reason}.*$"
    with pytest.raises(TrackingError, match=rule) as caught:
        Publisher(experiment="tests", warn=no_warning)
    assert "\n" not in str(caught.value)


def test_passwords_are_not_shown() -> None:
    uri = f"http://ann:secret@127.0.0.1:{free_port()}"
    with pytest.raises(TrackingError, match=r"got 'http://\*\*\*@127.0.0.1:") as caught:
        Publisher(experiment="tests", uri=uri, warn=no_warning)
    assert "secret" not in str(caught.value)


def test_a_deleted_experiment_is_named_with_the_remedy(uri: str) -> None:
    client = client_of(uri)
    client.delete_experiment(client.get_experiment_by_name("first").experiment_id)
    with pytest.raises(TrackingError, match=r"experiment 'first' is deleted in .* restore -x 1`"):
        Publisher(experiment="first", uri=uri, warn=no_warning)


def test_mlflow_settings_of_the_user_are_kept(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    Publisher(experiment="tests", uri=uri, warn=no_warning).close()
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "3"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "20"


def test_a_relative_sqlite_path_is_that_of_the_folder_at_the_start(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(database.parent)
    publisher = Publisher(experiment="tests", uri="sqlite:///mlflow.db", warn=no_warning)
    monkeypatch.chdir("/")
    publisher.follow_sweep(lambda: Record("run", "key", {}, {}))
    publisher.close()
    assert [run.info.run_name for run in runs_of(f"sqlite:///{database}")] == ["run"]
