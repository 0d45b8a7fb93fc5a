"""What a store that refuses, dies or hangs costs, with a real `mlflow server`: nothing that cannot be published later."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raypixel.runs import Event
from raypixel.runs.tracking import Publisher
from tests.runs.tracking.runs import as_stored, begin_run, epochs, only_run, tell
from tests.runs.tracking.stores import Server, client_of, copy_database, history_of, runs_of


def test_a_part_that_the_store_refuses_is_left_out_and_told(
    uri: str, tmp_path: Path, tiny: Any, digits: Any
) -> None:
    warnings: list[str] = []
    run = begin_run(tmp_path / "run", tiny(), digits)
    tell(run, epochs(1, name="no * in names"))
    publisher = Publisher(uri=uri, experiment="tests", warn=warnings.append)
    publisher.follow(run)
    assert publisher.flush(60)
    tell(run, epochs(2))
    run.end(Event("end", status="done"))
    assert publisher.close()
    stored = only_run(runs_of(uri))
    assert stored.info.status == "FINISHED"
    assert history_of(uri, stored.info.run_id, "value") == as_stored(2)
    (warning,) = warnings
    assert "does not take a part of a run (Invalid value" in warning


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
def test_a_server_that_dies_is_caught_up_with(
    server: Server, tmp_path: Path, tiny: Any, digits: Any
) -> None:
    warnings: list[str] = []
    run = begin_run(tmp_path / "run", tiny(), digits)
    publisher = Publisher(uri=server.uri, experiment="killed", warn=warnings.append)
    assert publisher.describe().startswith(f"{server.uri}/#/experiments/")
    publisher.follow(run)
    tell(run, epochs(0))
    assert publisher.flush(60)
    server.kill()
    tell(run, epochs(*range(1, 50)))
    later = begin_run(tmp_path / "while down", tiny(), digits)
    publisher.follow(later)
    tell(later, epochs(1))
    assert not publisher.flush(2.0)
    (warning,) = warnings
    prefix = f"MLflow at {server.uri} does not answer ("
    assert warning.startswith(prefix)
    # in the middle of a request, or before it
    assert warning.removeprefix(prefix).partition(")")[0] in (
        "Connection refused",
        "Connection reset by peer",
        "Remote end closed connection without response",
    )
    server.start()
    tell(run, epochs(*range(50, 60)))
    for each in (run, later):
        each.end(Event("end", status="done"))
    assert publisher.close(60)
    assert len(warnings) == 1
    stored = {each.info.run_name: each for each in runs_of(server.uri, "killed")}
    assert {each.info.status for each in stored.values()} == {"FINISHED"}
    ids = {name: each.info.run_id for name, each in stored.items()}
    assert history_of(server.uri, ids["run"], "value") == as_stored(*range(60))
    assert history_of(server.uri, ids["while down"], "value") == as_stored(1)
    folder = client_of(server.uri).download_artifacts(ids["run"], "experiment.yaml", str(tmp_path))
    assert Path(folder).read_text() == (run.folder / "experiment.yaml").read_text()


@pytest.mark.slow
def test_a_server_that_hangs_blocks_neither_training_nor_closing_and_is_caught_up_with_by_hand(
    server: Server, tmp_path: Path, tiny: Any, digits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    warnings: list[str] = []
    run = begin_run(tmp_path / "run", tiny(), digits)
    publisher = Publisher(uri=server.uri, experiment="hung", warn=warnings.append)
    publisher.follow(run)
    assert publisher.flush(60)
    server.send(signal.SIGSTOP)
    try:
        started = time.monotonic()
        tell(run, epochs(*range(50)))
        run.end(Event("end", status="done"))
        assert time.monotonic() - started < 20  # each of 50 requests would take a second
        assert not publisher.flush(4.0)
        assert not publisher.close(0.5)
    finally:
        server.send(signal.SIGCONT)
    assert [text.removeprefix(f"MLflow at {server.uri}") for text in warnings] == [
        " does not answer (no answer in time); going on, trying again",
        f": 1 run is not all there, `raypixel publish {run.folder}` catches up",
    ]
    with Publisher(uri=server.uri, experiment="hung", warn=pytest.fail) as again:
        again.follow(run)
    stored = only_run(runs_of(server.uri, "hung"))
    assert stored.info.status == "FINISHED"
    assert history_of(server.uri, stored.info.run_id, "value") == as_stored(*range(50))
