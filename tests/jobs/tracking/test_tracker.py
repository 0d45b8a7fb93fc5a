"""Laws of an experiment: where it is said to be, and which runs it has."""

import threading
from pathlib import Path

from raypixel.jobs.tracking import Tracker
from tests.jobs.tracking.stores import client_of, history_of, no_warning, runs_of


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


def test_a_store_beside_the_working_folder_is_opened_by_its_uri(database: Path) -> None:
    with Tracker("tests", uri=f"sqlite:///{database}", warn=no_warning) as tracker:
        command = f"mlflow ui --backend-store-uri 'sqlite:///{database}'`"
        assert tracker.describe().endswith(command)


def test_children_name_their_parent(uri: str) -> None:
    with Tracker("tests", uri=uri, warn=no_warning) as tracker:
        sweep = tracker.start("sweep", params={}, tags={})
        trials = [tracker.start(f"trial-{i}", params={}, tags={}, parent=sweep) for i in range(3)]
    parents = {run.info.run_id: run.data.tags.get("mlflow.parentRunId") for run in runs_of(uri)}
    assert parents == {sweep.run_id: None} | {trial.run_id: sweep.run_id for trial in trials}


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
