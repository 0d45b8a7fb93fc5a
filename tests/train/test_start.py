"""Training as a job: in one process, killed and resumed, and on Ray Train with several workers."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from raypixel.data import ensure_prepared
from raypixel.errors import CheckpointError, RaypixelError, TrainingError
from raypixel.runs import Event, Run, find_checkpoint
from raypixel.train.data_parallel import root_cause
from raypixel.train.start import train_and_publish
from tests.train.processes import take_interrupts
from tests.trained import ignore, train_into


def metrics_of(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def test_epoch_messages_and_files_of_a_run_agree(tiny, digits, tmp_path):
    events: list[Event] = []
    metrics = train_into(tmp_path / "run", tiny(), digits, events.append)
    epochs = [m for m in events if m.kind == "epoch"]
    assert [m.epoch for m in epochs] == [1, 2]
    assert [m["epoch"] for m in metrics_of(tmp_path / "run")] == [1, 2]
    assert epochs[-1].metrics == metrics
    assert epochs[-1].step == epochs[-1].total_steps == 8
    assert Run.at(tmp_path / "run").best().state["best"] == metrics["val/bits_per_dim"]


def test_data_set_that_cannot_be_prepared_names_the_way(tiny, tmp_path):
    data = tiny(data__name="faces", data__root=str(tmp_path)).data
    with pytest.raises(RaypixelError, match="raypixel data prepare faces"):
        ensure_prepared(data, progress=None)
    assert ensure_prepared(tiny(data__root=str(tmp_path)).data, progress=None).name == "digits"


def test_damaged_newest_checkpoint_is_told_and_an_older_one_used(tiny, digits, tmp_path):
    config = tiny()
    train_into(tmp_path, config, digits)
    newest = (tmp_path / "checkpoints" / "last").resolve()
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    events: list[Event] = []
    train_into(tmp_path, config, digits, events.append)
    assert "truncated" in next(m.text for m in events if m.kind == "warning")
    assert metrics_of(tmp_path)[-1]["epoch"] == 2


def command(config_file: Path, folder: Path, *extra: str) -> list[str]:
    program = [sys.executable, "-m", "raypixel", "train", str(config_file)]
    return [*program, "--runs", str(folder), "--run", "run", *extra]


def wait_for(condition, *, seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "num_workers"),
    [
        (signal.SIGKILL, 0),
        (signal.SIGINT, 0),
        (signal.SIGTERM, 0),
        (signal.SIGHUP, 0),
        (signal.SIGINT, 1),
        (signal.SIGTERM, 1),
    ],
)
def test_training_that_is_interrupted_and_resumed_ends_like_an_undisturbed_one(
    tiny, digits, tmp_path, private_mlflow, how, num_workers
):
    config = tiny(
        training__num_epochs=30,
        training__checkpoint_every_minutes=1e-3,
        scaling__num_workers=num_workers,
    )
    config_file = tmp_path / "experiment.yaml"
    config_file.write_text(yaml.safe_dump(config.to_mapping()))
    whole = tiny(training__num_epochs=30, training__checkpoint_every_minutes=1e-3)
    train_into(tmp_path / "whole", whole, digits)

    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command(config_file, tmp_path), stdout=log, stderr=log, preexec_fn=take_interrupts
        )
        metrics = tmp_path / "run" / "metrics.jsonl"
        wait_for(lambda: metrics.exists() and len(metrics.read_text().splitlines()) >= 3)
        process.send_signal(how)
        code = process.wait(timeout=200)
    assert code == (-signal.SIGKILL if how == signal.SIGKILL else 128 + how)
    if how != signal.SIGKILL:
        said = (tmp_path / "log").read_text().splitlines()
        assert said[-1] == "train was interrupted; --resume continues it"
    assert len(metrics_of(tmp_path / "run")) < 30
    resumed = subprocess.run(
        command(config_file, tmp_path, "--resume"), capture_output=True, text=True, timeout=300
    )
    assert resumed.returncode == 0, f"{resumed.returncode}: {resumed.stdout} {resumed.stderr}"
    ours, theirs = metrics_of(tmp_path / "run"), metrics_of(tmp_path / "whole")
    if num_workers == 0:  # the same process, threads and all: bit for bit
        assert ours == theirs
        assert weights_of(tmp_path / "run") == weights_of(tmp_path / "whole")
    assert [m["epoch"] for m in ours] == [m["epoch"] for m in theirs]
    assert ours[-1] == pytest.approx(theirs[-1], rel=1e-3)


def weights_of(folder: Path) -> bytes:
    return (folder / "checkpoints" / "last" / "model.safetensors").read_bytes()


@pytest.mark.ray
@pytest.mark.slow
def test_two_ray_workers_train_what_one_process_does(tiny, digits, tmp_path, ray_cluster):
    one = tiny(data__max_eval_images=49)
    two = tiny(data__max_eval_images=49, scaling__num_workers=2, scaling__cpus_per_worker=1.0)
    expected = train_into(tmp_path / "one", one, digits)
    events: list[Event] = []
    metrics = train_into(tmp_path / "two", two, digits, events.append)
    assert metrics == pytest.approx(expected, rel=1e-3)
    assert metrics["val/num_images"] == 49
    assert [m.epoch for m in events if m.kind == "epoch"] == [1, 2]
    assert Run.at(tmp_path / "two").best().state["step"] == 8


@pytest.mark.ray
@pytest.mark.slow
def test_error_in_a_ray_worker_reads_as_it_does_in_one_process(tiny, digits, tmp_path, ray_cluster):
    options = {"training__learning_rate": 1e30, "training__gradient_clip_norm": None}
    with pytest.raises(TrainingError, match="loss must be finite"):
        train_into(tmp_path / "one", tiny(**options), digits)
    config = tiny(**options, scaling__num_workers=1)
    with pytest.raises(TrainingError, match=r"^loss must be finite"):
        train_into(tmp_path / "ray", config, digits)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("scaling", "asked"),
    [
        ({"num_workers": 64}, "64 workers of 1 CPU each"),
        ({"num_workers": [64, 99]}, "64 workers of 1 CPU each"),
        ({"num_workers": 1, "cpus_per_worker": 640.0}, "1 workers of 640 CPU each"),
        ({"num_workers": 8, "device": "cuda"}, "8 workers of 1 CPU and 1 GPU each"),
    ],
)
def test_workers_that_the_cluster_cannot_hold_are_refused_at_once(
    tiny, digits, tmp_path, ray_cluster, scaling, asked
):
    config = tiny(**{f"scaling__{name}": value for name, value in scaling.items()})
    started = time.monotonic()
    text = (
        rf"scaling.num_workers must fit the cluster, got {asked}: its machines have \d+ CPU and \d"
    )
    with pytest.raises(RaypixelError, match=text):
        train_into(tmp_path, config, digits)
    assert time.monotonic() - started < 60  # not the three minutes of a start that times out


def test_recorded_training_leaves_parameters_metrics_and_files_in_mlflow(
    tiny, digits, tmp_path, private_mlflow
):
    from mlflow import MlflowClient

    config = tiny()
    result = train_and_publish(
        config, digits, Run.at(tmp_path / "run"), resume=False, on_event=ignore, warn=pytest.fail
    )
    assert result.samples == tmp_path / "run" / "samples.png"
    client = MlflowClient(private_mlflow)
    experiment = client.get_experiment_by_name("raypixel")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["model.hidden_size"] == "8"
    history = client.get_metric_history(run.info.run_id, "val/bits_per_dim")
    assert [m.value for m in history] == [
        m["val/bits_per_dim"] for m in metrics_of(tmp_path / "run")
    ]
    assert [m.step for m in history] == [4, 8]
    assert run.inputs.dataset_inputs[0].dataset.digest == digits.digest
    names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert names >= {"checkpoint", "experiment.yaml", "metrics.jsonl", "samples.png"}


def test_failed_training_is_marked_failed_in_mlflow(tiny, digits, tmp_path, private_mlflow):
    from mlflow import MlflowClient

    config = tiny(training__learning_rate=1e30, training__gradient_clip_norm=None)
    with pytest.raises(TrainingError, match="loss must be finite"):
        train_and_publish(
            config,
            digits,
            Run.at(tmp_path / "run"),
            resume=False,
            on_event=ignore,
            warn=pytest.fail,
        )
    client = MlflowClient(private_mlflow)
    (run,) = client.search_runs([client.get_experiment_by_name("raypixel").experiment_id])
    assert run.info.status == "FAILED"


def test_training_may_begin_with_the_weights_of_another(tiny, digits, tmp_path, private_mlflow):
    options = {"training__ema_decay": 0.9, "training__optimizer": "adam", "model__dropout": 0.1}
    train_into(tmp_path / "first", tiny(**options), digits)
    init = find_checkpoint(tmp_path / "first")
    told: list[str] = []
    again = {**options, "training__schedule": "constant", "training__learning_rate": 1e-9}
    for name, num_epochs in (("begun", 1), ("whole", 2)):
        train_and_publish(
            tiny(**again, training__num_epochs=num_epochs),
            digits,
            Run.at(tmp_path / name),
            resume=False,
            on_event=ignore,
            warn=told.append,
            init=init,
        )
    assert told[0] == f"begins with the weights of {init.path}"
    begun = Run.at(tmp_path / "begun")
    assert begun.identity()["init"] == str(init.path)
    weights, tensors = begun.last().weights(), begun.last().training_tensors()
    assert weights.keys() == init.weights().keys()
    for name, value in init.weights().items():  # the averaged ones; the rate is next to nothing
        torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-7)
        torch.testing.assert_close(tensors[f"raw.{name}"], value, rtol=0, atol=1e-7)
    assert tensors["optimizer.0.step"] == 4  # and not the 8 of the first training before them
    first, second = metrics_of(tmp_path / "first"), metrics_of(tmp_path / "begun")
    assert second[0]["val/bits_per_dim"] == pytest.approx(first[-1]["val/bits_per_dim"], abs=1e-4)

    more = tiny(**again, training__num_epochs=2)  # what was begun so is resumed as any other
    train_into(tmp_path / "begun", more, digits)
    assert weights_of(tmp_path / "begun") == weights_of(tmp_path / "whole")
    assert begun.identity()["init"] == str(init.path)


def test_weights_of_another_architecture_are_refused_with_what_to_set(tiny, digits, tmp_path):
    train_into(tmp_path / "first", tiny(training__num_epochs=1), digits)
    init = find_checkpoint(tmp_path / "first")

    def refusal(config) -> tuple[str, ...]:
        run = Run.at(tmp_path / "run")
        with pytest.raises(CheckpointError) as caught:
            train_and_publish(
                config, digits, run, resume=False, on_event=ignore, warn=pytest.fail, init=init
            )
        assert not run.folder.exists()
        return tuple(text.removeprefix(f"--init {init.path}: ") for text in caught.value.problems)

    assert refusal(tiny(model__hidden_size=16, model__num_layers=2)) == (
        "model.hidden_size must be 8 as there, got 16",
        "model.num_layers must be 1 as there, got 2",
    )
    assert refusal(tiny(model__kind="row_lstm")) == (
        "model.kind must be 'pixelcnn' as there, got 'row_lstm'",
    )
    assert refusal(tiny(data__num_levels=4)) == ("num_levels must be 17 as there, got 4",)


def test_root_cause_is_the_innermost_error_in_one_line():
    with pytest.raises(RuntimeError) as caught:  # noqa: PT012 (the chain is made here)
        try:
            raise ValueError("inner\n  text")
        except ValueError as error:
            raise RuntimeError("outer") from error
    assert root_cause(caught.value) == "ValueError: inner text"
