"""Laws of the writer: what a store that refuses, dies or hangs costs, with a real `mlflow server`."""

import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raypixel.jobs.tracking import Tracker
from tests.jobs.tracking.stores import Server, client_of, copy_database, history_of, no_warning


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


def test_a_store_that_is_slow_is_waited_for_at_the_end(uri: str) -> None:
    warnings: list[str] = []
    with Tracker("tests", uri=uri, warn=warnings.append) as tracker:
        run = tracker.start("run", params={}, tags={})
        assert tracker.flush(60)
        for number in range(
            1000
        ):  # a transaction each, of a third of a millisecond at the very least
            run.tag(f"tag{number}", "x")
        started = time.monotonic()
        assert tracker.close(0.5) == 0
    assert time.monotonic() - started > 0.5
    assert run.run_id is not None
    tags = client_of(uri).get_run(run.run_id).data.tags
    assert all("is slow" in text for text in warnings)
    assert sum(name.startswith("tag") for name in tags) == 1000


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
    prefix = f"MLflow at {server.uri} does not answer ("
    assert warnings[0].startswith(prefix)
    # in the middle of a request, or before it
    assert warnings[0].removeprefix(prefix).partition(")")[0] in (
        "Connection refused",
        "Connection reset by peer",
        "Remote end closed connection without response",
    )
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
