"""Laws of a run: what is logged reads back."""

import math
from pathlib import Path

import pytest

from raypixel.jobs.tracking import Tracker
from tests.jobs.tracking.stores import client_of, history_of, no_warning, runs_of


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
