"""Laws of tracking, with real SQLite stores and a real `mlflow server`."""

import math
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raypixel.jobs.tracking import Tracker, TrackingError, _git_commit

FIRST_USE = """
from raypixel.jobs.tracking import Tracker

def fail(text):
    raise AssertionError(text)

with Tracker("first", warn=fail) as tracker:
    with tracker.start("run", params={}, tags={}) as run:
        run.log({"val/bits_per_dim": 1.0}, step=1)
open("description.txt", "w").write(tracker.describe())
"""


@pytest.fixture(scope="session")
def first_use(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder, with a space in its name, where a first process tracked a run, and what it printed."""
    folder = tmp_path_factory.mktemp("tracking") / "my work"
    folder.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    done = subprocess.run(
        [sys.executable, "-c", FIRST_USE],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    return folder, done.stdout


@pytest.fixture
def database(first_use: tuple[Path, str], tmp_path: Path) -> Path:
    """A database of its own for each test; making one from nothing takes 3 s."""
    return copy_database(first_use[0] / "mlflow.db", tmp_path / "mlflow.db")


@pytest.fixture
def uri(database: Path) -> str:
    return f"sqlite:///{database}"


def copy_database(source: Path, target: Path) -> Path:
    connections = sqlite3.connect(source), sqlite3.connect(target)
    connections[0].backup(connections[1])
    for connection in connections:
        connection.close()
    return target


def client_of(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def runs_of(uri: str, experiment: str = "tests") -> list[Any]:
    client = client_of(uri)
    return list(client.search_runs([client.get_experiment_by_name(experiment).experiment_id]))


def history_of(uri: str, run_id: str | None, name: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in client_of(uri).get_metric_history(run_id, name)]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def no_warning(text: str) -> None:
    raise AssertionError(text)


# --- local store


def test_first_use_prints_nothing_and_makes_the_store_that_mlflow_ui_opens(
    first_use: tuple[Path, str],
) -> None:
    folder, printed = first_use
    assert printed == ""
    assert {"mlflow.db", "description.txt"} <= {path.name for path in folder.iterdir()}
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    location = client_of(uri).get_experiment_by_name("first").artifact_location
    assert location == (folder / "mlartifacts").as_uri()
    description = (folder / "description.txt").read_text()
    assert description.startswith(f"{folder / 'mlflow.db'}, open it with `")
    assert description.endswith(f"mlflow ui` in {folder}")


def test_what_is_logged_reads_back(uri: str, tmp_path: Path) -> None:
    checkpoint = tmp_path / "step-00000007"
    (checkpoint / "deep").mkdir(parents=True)
    (checkpoint / "state.json").write_text("{}")
    (checkpoint / "deep" / "file").write_text("x")
    (tmp_path / "best").symlink_to(checkpoint)
    (tmp_path / "samples.png").write_bytes(b"picture")
    params = {
        "model": {"hidden_size": 32, "use_residual": True, "norm": None, "options": {}},
        "data": {"name": "digits", "size": [8, 8]},
        "long": "z" * 7000,
        **{f"many_{i}": i for i in range(150)},
    }
    tags = {"recipe": "digits_pixelcnn"}
    with (
        Tracker("tests", uri=uri, warn=no_warning) as tracker,
        tracker.start("trial", params=params, tags=tags) as run,
    ):
        for step in range(1200):
            run.log({"val/bits_per_dim": 1 / (step + 1), "val/nll_nats": step}, step=step)
        run.log_dataset(
            "digits", "a" * 64, source="/data/digits", num_images=1437, context="training"
        )
        run.log_artifact(tmp_path / "samples.png", "samples")
        run.log_artifact(tmp_path / "best")
        run.tag("stopped_by", "asha")
    stored = client_of(uri).get_run(run.run_id)
    assert stored.info.run_name == "trial"
    assert stored.info.status == "FINISHED"
    assert stored.info.start_time <= stored.info.end_time
    expected = {
        "model.hidden_size": "32",
        "model.use_residual": "true",
        "model.norm": "null",
        "model.options": "{}",
        "data.name": "digits",
        "data.size": "[8, 8]",
        "long": "z" * 6000,
        **{f"many_{i}": str(i) for i in range(150)},
    }
    assert stored.data.params == expected
    tags = stored.data.tags
    assert (tags["recipe"], tags["stopped_by"]) == ("digits_pixelcnn", "asha")
    assert {"raypixel.version", "torch.version", "ray.version"} <= set(tags)
    assert stored.info.user_id == "unknown"
    assert "mlflow.user" not in tags
    assert history_of(uri, run.run_id, "val/bits_per_dim") == [
        (step, 1 / (step + 1)) for step in range(1200)
    ]
    assert len(history_of(uri, run.run_id, "val/nll_nats")) == 1200
    (data,) = stored.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("digits", "a" * 36)
    assert data.dataset.source == '{"uri": "/data/digits"}'
    assert [(tag.key, tag.value) for tag in data.tags] == [("mlflow.data.context", "training")]
    artifacts = tmp_path / "mlartifacts" / str(run.run_id) / "artifacts"
    assert (artifacts / "samples" / "samples.png").read_bytes() == b"picture"
    assert (artifacts / "best" / "deep" / "file").read_text() == "x"
    assert {str(f.path) for f in client_of(uri).list_artifacts(run.run_id)} == {"best", "samples"}


def test_metrics_that_are_not_finite_read_back_as_nan(uri: str) -> None:
    with Tracker("tests", uri=uri, warn=no_warning) as tracker:
        run = tracker.start("run", params={}, tags={})
        for step, value in enumerate([1.5, math.nan, math.inf, -math.inf]):
            run.log({"train/bits_per_dim": value}, step=step)
    first, *others = history_of(uri, run.run_id, "train/bits_per_dim")
    assert first == (0, 1.5)
    assert [step for step, value in others if math.isnan(value)] == [1, 2, 3]


def test_children_name_their_parent(uri: str) -> None:
    with Tracker("tests", uri=uri, warn=no_warning) as tracker:
        sweep = tracker.start("sweep", params={}, tags={})
        trials = [tracker.start(f"trial-{i}", params={}, tags={}, parent=sweep) for i in range(3)]
    parents = {run.info.run_id: run.data.tags.get("mlflow.parentRunId") for run in runs_of(uri)}
    assert parents == {sweep.run_id: None} | {trial.run_id: sweep.run_id for trial in trials}


def test_a_run_with_the_same_key_is_opened_again(uri: str) -> None:
    params = {"seed": 0, "training": {"num_epochs": 2}}
    with Tracker("tests", uri=uri, warn=no_warning) as tracker:
        first = tracker.start("run", params=params, tags={}, key="digits-1234")
        first.log({"val/bits_per_dim": 2.0}, step=1)
        first.finish("KILLED")
        tracker.start("other", params={}, tags={}, key="digits-12345").finish("FINISHED")
    params = {"seed": 0, "training": {"num_epochs": 4}, "added": 1}
    with Tracker("tests", uri=uri, warn=no_warning) as tracker:
        again = tracker.start("run", params=params, tags={"attempt": "2"}, key="digits-1234")
        again.log({"val/bits_per_dim": 1.0}, step=2)
        assert tracker.flush(30)
        assert client_of(uri).get_run(again.run_id).info.status == "RUNNING"
        again.finish("FINISHED")
        again.finish("FAILED")
    assert again.run_id == first.run_id
    assert len(runs_of(uri)) == 2
    stored = client_of(uri).get_run(first.run_id)
    assert stored.info.status == "FINISHED"
    assert history_of(uri, first.run_id, "val/bits_per_dim") == [(1, 2.0), (2, 1.0)]
    assert stored.data.params == {"seed": "0", "training.num_epochs": "2", "added": "1"}
    assert stored.data.tags["attempt"] == "2"
    assert stored.data.tags["raypixel.changed_params"] == "training.num_epochs: 2 -> 4"


def test_runs_logged_at_once_from_threads_keep_their_own_metrics(uri: str) -> None:
    run_ids: dict[int, str | None] = {}
    with Tracker("tests", uri=uri, warn=no_warning) as tracker:

        def train(index: int) -> None:
            with tracker.start(f"run-{index}", params={"index": index}, tags={}) as run:
                for step in range(100):
                    run.log({"value": 1000 * index + step}, step=step)
                assert tracker.flush(60)
                run_ids[index] = run.run_id

        threads = [threading.Thread(target=train, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for index, run_id in run_ids.items():
        assert client_of(uri).get_run(run_id).data.params == {"index": str(index)}
        expected = [(step, 1000.0 * index + step) for step in range(100)]
        assert history_of(uri, run_id, "value") == expected
    assert len(runs_of(uri)) == 4


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")]
)
def test_a_run_left_by_an_error_has_its_status(
    uri: str, error: type[BaseException], status: str
) -> None:
    def train(tracker: Tracker) -> None:
        with tracker.start("run", params={}, tags={}):
            raise error

    with Tracker("tests", uri=uri, warn=no_warning) as tracker, pytest.raises(error):
        train(tracker)
    assert [run.info.status for run in runs_of(uri)] == [status]


def test_an_entry_that_the_store_refuses_is_left_out_and_told(uri: str) -> None:
    warnings: list[str] = []
    tracker = Tracker("tests", uri=uri, warn=warnings.append)
    run = tracker.start("run", params={}, tags={})
    run.log({"no * in names": 1.0}, step=1)
    assert tracker.flush(60)
    run.log({"fine": 1.0}, step=2)
    assert tracker.close() == 1
    assert history_of(uri, run.run_id, "fine") == [(2, 1.0)]
    assert len(warnings) == 2
    assert "does not take an entry (Invalid value" in warnings[0]
    assert warnings[1] == f"MLflow at {uri}: 1 entry was not written"


def test_wrong_calls_are_refused(uri: str, tmp_path: Path) -> None:
    tracker = Tracker("tests", uri=uri, warn=no_warning)
    with pytest.raises(ValueError, match="key must not hold a quotation mark"):
        tracker.start("run", params={}, tags={}, key="it's")
    run = tracker.start("run", params={}, tags={})
    with pytest.raises(ValueError, match=r"path must be a file or a directory, got .*missing"):
        run.log_artifact(tmp_path / "missing")
    tracker.close()
    with pytest.raises(ValueError, match="the tracker must be open"):
        run.log({"x": 1.0}, step=1)


# --- opening


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
        Tracker("tests", warn=no_warning)
    assert "\n" not in str(caught.value)


def test_passwords_are_not_shown() -> None:
    uri = f"http://ann:secret@127.0.0.1:{free_port()}"
    with pytest.raises(TrackingError, match=r"got 'http://\*\*\*@127.0.0.1:") as caught:
        Tracker("tests", uri=uri, warn=no_warning)
    assert "secret" not in str(caught.value)


def test_a_deleted_experiment_is_named_with_the_remedy(uri: str) -> None:
    client = client_of(uri)
    client.delete_experiment(client.get_experiment_by_name("first").experiment_id)
    with pytest.raises(TrackingError, match=r"experiment 'first' is deleted in .* restore -x 1`"):
        Tracker("first", uri=uri, warn=no_warning)


def test_mlflow_settings_of_the_user_are_kept(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    Tracker("tests", uri=uri, warn=no_warning).close()
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "3"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "20"


def test_a_relative_sqlite_path_is_that_of_the_folder_at_the_start(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(database.parent)
    tracker = Tracker("tests", uri="sqlite:///mlflow.db", warn=no_warning)
    monkeypatch.chdir("/")
    tracker.start("run", params={}, tags={})
    tracker.close()
    assert [run.info.run_name for run in runs_of(f"sqlite:///{database}")] == ["run"]


def test_a_store_beside_the_working_folder_is_opened_by_its_uri(database: Path) -> None:
    with Tracker("tests", uri=f"sqlite:///{database}", warn=no_warning) as tracker:
        command = f"mlflow ui --backend-store-uri 'sqlite:///{database}'`"
        assert tracker.describe().endswith(command)


def test_the_commit_is_that_of_a_tracked_file(tmp_path: Path) -> None:
    def git(*command: str) -> str:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        done = subprocess.run(
            ["git", *identity, *command], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    source = tmp_path / "__init__.py"
    source.write_text("")
    assert _git_commit(source) is None
    git("init")
    assert _git_commit(source) is None
    git("add", "__init__.py")
    git("commit", "--message", "first")
    git("tag", "v1")
    assert _git_commit(source) == git("rev-parse", "HEAD")
    source.write_text("changed")
    assert _git_commit(source) == git("rev-parse", "HEAD") + "-dirty"
    installed = tmp_path / ".venv" / "__init__.py"
    installed.parent.mkdir()
    installed.write_text("")
    assert _git_commit(installed) is None


# --- server


class Server:
    """A real `mlflow server` in a process group of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        off = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=os.environ | off,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        for _ in range(300):
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                    return
            except OSError:
                assert self.process.poll() is None, (self.folder / "server.log").read_text()
                time.sleep(0.2)
        raise AssertionError((self.folder / "server.log").read_text())

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        if self.process is not None:
            self.send(signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def server(
    first_use: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    copy_database(first_use[0] / "mlflow.db", folder / "mlflow.db")
    server = Server(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.mark.slow
def test_a_server_stores_what_is_logged(server: Server, tmp_path: Path) -> None:
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "deep" / "file").write_text("x")
    with Tracker("served", uri=server.uri, warn=no_warning) as tracker:
        with tracker.start("run", params={"model": {"hidden_size": 32}}, tags={}) as run:
            run.log({"val/bits_per_dim": math.nan, "val/nll_nats": 2.5}, step=3)
            run.log_dataset("digits", "abc", source="/data", num_images=9, context="training")
            run.log_artifact(tmp_path / "folder")
        assert tracker.describe().startswith(f"{server.uri}/#/experiments/")
    stored = client_of(server.uri).get_run(run.run_id)
    assert stored.info.status == "FINISHED"
    assert stored.data.params == {"model.hidden_size": "32"}
    assert math.isnan(stored.data.metrics["val/bits_per_dim"])
    assert history_of(server.uri, run.run_id, "val/nll_nats") == [(3, 2.5)]
    assert len(stored.inputs.dataset_inputs) == 1
    downloaded = client_of(server.uri).download_artifacts(run.run_id, "folder", str(tmp_path))
    assert (Path(downloaded) / "deep" / "file").read_text() == "x"


@pytest.mark.slow
def test_a_server_that_dies_loses_nothing_within_the_bound(server: Server) -> None:
    warnings: list[str] = []
    few_warnings: list[str] = []
    tracker = Tracker("killed", uri=server.uri, warn=warnings.append)
    bounded = Tracker("killed", uri=server.uri, warn=few_warnings.append, max_queued=5)
    run = tracker.start("before", params={}, tags={})
    run.log({"value": 0.0}, step=0)
    assert tracker.flush(60)
    server.kill()
    for step in range(1, 50):
        run.log({"value": float(step)}, step=step)
    later = tracker.start("while down", params={"a": 1}, tags={}, parent=run, key="later")
    later.log({"value": 1.0}, step=1)
    short = bounded.start("bounded", params={}, tags={})
    for step in range(20):
        short.log({"value": float(step)}, step=step)
    assert not tracker.flush(2.0)
    assert len(warnings) == 1
    assert warnings[0].startswith(f"MLflow at {server.uri} does not answer (Connection refused)")
    server.start()
    for step in range(50, 60):
        run.log({"value": float(step)}, step=step)
    run.finish("FINISHED")
    assert tracker.close(60) == 0
    assert len(warnings) == 1
    expected = [(step, float(step)) for step in range(60)]
    assert history_of(server.uri, run.run_id, "value") == expected
    stored = client_of(server.uri).get_run(later.run_id)
    assert stored.data.params == {"a": "1"}
    assert stored.data.tags["mlflow.parentRunId"] == run.run_id
    assert history_of(server.uri, later.run_id, "value") == [(1, 1.0)]
    # beyond the bound the oldest metrics go, never the run itself
    num_lost = bounded.close(60)
    kept = history_of(server.uri, short.run_id, "value")
    assert len(kept) in (4, 5)
    assert kept == [(step, float(step)) for step in range(20 - len(kept), 20)]
    assert num_lost == 20 - len(kept)
    assert few_warnings[-1] == f"MLflow at {server.uri}: {num_lost} entries were not written"


@pytest.mark.slow
def test_a_server_that_hangs_blocks_neither_logging_nor_closing(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    warnings: list[str] = []
    tracker = Tracker("hung", uri=server.uri, warn=warnings.append, max_queued=10)
    run = tracker.start("run", params={}, tags={})
    assert tracker.flush(60)
    server.send(signal.SIGSTOP)
    try:
        for step in range(50):
            run.log({"value": 1.0}, step=step)
        assert not tracker.flush(4.0)
        assert tracker.close(0.5) == 50
    finally:
        server.send(signal.SIGCONT)
    assert [text.removeprefix(f"MLflow at {server.uri}") for text in warnings] == [
        " does not answer (no answer in time); going on, trying again",
        ": 50 entries were not written",
    ]
