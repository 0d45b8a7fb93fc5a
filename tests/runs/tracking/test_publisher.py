"""Laws of publishing: what a run's folder says is in MLflow, however often and however late it is told."""

import math
from pathlib import Path
from typing import Any

from raypixel.runs import Event
from raypixel.runs.tracking import Publisher, Record
from tests.runs.tracking.runs import as_stored, begin_run, epochs, only_run, tell
from tests.runs.tracking.stores import client_of, history_of, no_warning, runs_of


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
    uri = f"sqlite:///{database}"
    with Publisher(uri=uri, experiment="tests", warn=no_warning) as publisher:
        command = f"mlflow ui --backend-store-uri 'sqlite:///{database}'`"
        assert publisher.describe().endswith(command)


def test_what_a_folder_says_reads_back(uri: str, tmp_path: Path, tiny: Any, digits: Any) -> None:
    run = begin_run(tmp_path / "run", tiny(), digits)
    (run.folder / "samples.png").write_bytes(b"picture")
    checkpoint = run.folder / "checkpoints" / "step-00000007"
    (checkpoint / "deep").mkdir(parents=True)
    (checkpoint / "deep" / "file").write_text("x")
    (run.folder / "checkpoints" / "best").symlink_to(checkpoint.name)
    with Publisher(uri=uri, experiment="tests", warn=no_warning) as publisher:
        publisher.follow(run, name="trial")
        tell(run, epochs(*range(1, 1300)))
        run.end(Event("end", metrics={"best/test/nll_nats": 2.0}, status="done"))
    stored = only_run(runs_of(uri))
    run_id = stored.info.run_id
    assert (stored.info.run_name, stored.info.status) == ("trial", "FINISHED")
    assert stored.info.start_time <= stored.info.end_time
    params = stored.data.params
    assert (params["model.hidden_size"], params["model.use_residual"]) == ("8", "true")
    assert (params["model.norm"], params["training.max_steps"]) == ("none", "null")
    tags = stored.data.tags
    assert {"raypixel.version", "torch.version", "ray.version"} <= set(tags)
    assert tags["raypixel.folder"] == str(run.folder)
    assert (tags["raypixel.status"], stored.info.user_id) == ("done", "unknown")
    assert "mlflow.user" not in tags
    assert history_of(uri, run_id, "value") == as_stored(*range(1, 1300))
    assert history_of(uri, run_id, "epoch") == as_stored(*range(1, 1300))
    assert history_of(uri, run_id, "best/test/nll_nats") == [(0, 2.0)]
    train, val = sorted(stored.inputs.dataset_inputs, key=lambda each: each.dataset.name)
    assert (train.dataset.name, val.dataset.name) == ("digits-train", "digits-val")
    assert train.dataset.digest == digits.digest[:36]
    assert [(tag.key, tag.value) for tag in train.tags] == [("mlflow.data.context", "training")]
    artifacts = tmp_path / "mlartifacts" / run_id / "artifacts"
    assert (artifacts / "samples.png").read_bytes() == b"picture"
    assert (artifacts / "checkpoint" / checkpoint.name / "deep" / "file").read_text() == "x"
    assert (artifacts / "experiment.yaml").exists()


def test_publishing_again_and_later_changes_nothing(
    uri: str, tmp_path: Path, tiny: Any, digits: Any
) -> None:
    run = begin_run(tmp_path / "run", tiny(), digits)
    tell(run, epochs(1, 2))
    for _ in range(2):  # the second has more to tell
        for _ in range(2):
            with Publisher(uri=uri, experiment="tests", warn=no_warning) as publisher:
                publisher.follow(run)
        tell(run, epochs(3))
        run.end(Event("end", status="done"))
    with Publisher(uri=uri, experiment="tests", warn=no_warning) as publisher:
        publisher.follow(run)
    stored = only_run(runs_of(uri))
    assert stored.info.status == "FINISHED"
    assert history_of(uri, stored.info.run_id, "value") == as_stored(1, 2, 3, 3)[:4]
    assert len(stored.inputs.dataset_inputs) == 2


def test_numbers_that_are_not_finite_read_back_as_nan(
    uri: str, tmp_path: Path, tiny: Any, digits: Any
) -> None:
    run = begin_run(tmp_path / "run", tiny(), digits)
    values = [1.5, math.nan, math.inf, -math.inf]
    tell(run, [Event("epoch", step=n, metrics={"loss": v}) for n, v in enumerate(values)])
    with Publisher(uri=uri, experiment="tests", warn=no_warning) as publisher:
        publisher.follow(run)
    first, *others = history_of(uri, only_run(runs_of(uri)).info.run_id, "loss")
    assert first == (0, 1.5)
    assert [step for step, value in others if math.isnan(value)] == [1, 2, 3]


def test_a_resumed_run_is_the_same_one_and_goes_on(
    uri: str, tmp_path: Path, tiny: Any, digits: Any
) -> None:
    run = begin_run(tmp_path / "run", tiny(), digits)
    tell(run, epochs(1))
    run.end(Event("end", status="killed"))
    (run.folder / "checkpoints" / "step-00000001").mkdir(parents=True)
    with Publisher(uri=uri, experiment="tests", warn=no_warning) as publisher:
        publisher.follow(run)
    assert only_run(runs_of(uri)).info.status == "KILLED"
    run.begin(tiny(training__num_epochs=4), digits, resume=True)
    tell(run, epochs(2))
    with Publisher(uri=uri, experiment="tests", warn=no_warning) as publisher:
        publisher.follow(run)
        assert publisher.flush(30)
        assert only_run(runs_of(uri)).info.status == "RUNNING"
        run.end(Event("end", status="done"))
    stored = only_run(runs_of(uri))
    assert stored.info.status == "FINISHED"
    assert history_of(uri, stored.info.run_id, "value") == as_stored(1, 2)
    assert stored.data.params["training.num_epochs"] == "2"
    assert stored.data.tags["raypixel.changed_params"] == "training.num_epochs: 2 -> 4"


def test_long_parameters_are_cut_and_many_are_kept(uri: str) -> None:
    params: dict[str, object] = {"long": "z" * 7000, **{f"many_{i}": i for i in range(150)}}
    with Publisher(uri=uri, experiment="tests", warn=no_warning) as publisher:
        made = publisher.follow_sweep(lambda: Record("sweep", "key", params, {}))
        publisher.finish(made, "done")
    stored = only_run(runs_of(uri)).data.params
    assert stored == {"long": "z" * 6000, **{f"many_{i}": str(i) for i in range(150)}}


def test_trials_name_their_sweep_and_each_has_its_own_numbers(
    uri: str, tmp_path: Path, tiny: Any, digits: Any
) -> None:
    runs = [begin_run(tmp_path / f"run-{n}", tiny(), digits) for n in range(3)]
    with Publisher(uri=uri, experiment="tests", warn=no_warning) as publisher:
        parent = publisher.follow_sweep(lambda: Record("sweep", "key", {}, {}))
        for number, run in enumerate(runs):
            publisher.follow(run, parent=parent)
            tell(run, epochs(number))
            run.end(Event("end", text="behind", status="stopped"))
        publisher.finish(parent, "failed")
    stored = {run.info.run_name: run for run in runs_of(uri)}
    assert stored.pop("sweep").info.status == "FAILED"
    for number in range(3):
        run = stored[f"run-{number}"]
        assert run.data.tags["mlflow.parentRunId"] == parent.run_id
        assert run.data.tags["raypixel.stopped_by"] == "behind"
        assert run.info.status == "KILLED"
        assert history_of(uri, run.info.run_id, "value") == as_stored(number)
