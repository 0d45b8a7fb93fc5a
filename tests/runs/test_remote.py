"""Runs in storage: whole whenever they are read, fetched into a working copy, resumed from an empty one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

import raypixel
from raypixel import storage
from raypixel.data import prepare
from raypixel.errors import CheckpointError, StorageError
from raypixel.runs import Event, Run, find_checkpoint
from raypixel.runs.remote import WRITER, read_index
from raypixel.storage import Remote, working_copy
from raypixel.train.start import train
from tests.trained import train_into


def metrics_of(text: bytes) -> list[dict]:
    lines = [json.loads(line) for line in text.decode().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def forget_copies() -> None:
    """Do as another machine would, on which nothing is yet."""
    shutil.rmtree(os.environ["RAYPIXEL_CACHE"], ignore_errors=True)


@pytest.fixture
def trained(tiny, digits, bucket) -> Remote:
    """Train two epochs into storage."""
    train_into(bucket / "runs" / "one", tiny(), digits)
    return bucket / "runs" / "one"


def test_run_in_storage_is_the_one_in_a_folder(tiny, digits, tmp_path, trained):
    train_into(tmp_path / "run", tiny(), digits)
    ours, theirs = Run.at(trained).best(), Run.at(tmp_path / "run").best()
    for name, tensor in theirs.weights().items():
        assert (ours.weights()[name] == tensor).all()
    expected = metrics_of((tmp_path / "run" / "metrics.jsonl").read_bytes())
    assert metrics_of(storage.read_bytes(trained / "metrics.jsonl")) == expected
    index = read_index(trained)
    assert index.last == "step-00000008"
    folders = {name.split("/")[0] for name in storage.list_files(trained / "checkpoints")}
    assert folders == {*index.folders.values(), "index.json"}
    assert str(ours.where) == f"{trained}/checkpoints/{index.best}"


def test_checkpoint_is_resolved_by_every_address_of_it(trained):
    forget_copies()
    for place in (str(trained), trained / "checkpoints" / "best", trained / "checkpoints/last"):
        assert find_checkpoint(place).state["step"] == 8
    assert raypixel.load(str(trained), device="cpu").image_shape == (1, 8, 8)
    with pytest.raises(
        CheckpointError, match=r"step-00000001: must be a checkpoint, there is best"
    ):
        find_checkpoint(trained / "checkpoints" / "step-00000001")


def test_what_is_not_there_is_told(bucket):
    with pytest.raises(CheckpointError, match=r"^s3://.*/nothing: must be a run's folder or its"):
        find_checkpoint(bucket / "nothing")
    with pytest.raises(StorageError, match="bucket 'no-such-bucket' must exist"):
        find_checkpoint("s3://no-such-bucket/run")


def test_training_in_storage_is_not_trained_over_and_resumed_only_as_the_same(
    tiny, digits, trained
):
    forget_copies()
    with pytest.raises(CheckpointError, match=rf"^{trained}: holds a training already"):
        Run.at(trained).begin(tiny(), digits, resume=False)
    with pytest.raises(CheckpointError, match=rf"^{trained}: must be resumed with model.hidden"):
        Run.at(trained).begin(tiny(model__hidden_size=16), digits, resume=True)
    first = json.loads(storage.read_bytes(trained / "run.json"))["id"]
    Run.at(trained).begin(tiny(), digits, resume=True)
    assert Run.at(trained).identity()["id"] == first


def test_copy_of_a_run_that_was_replaced_is_not_used(tiny, digits, trained):
    Run.at(trained).best()
    storage.delete_folder(trained)
    Run.at(trained).begin(tiny(), digits, resume=False)
    with pytest.raises(CheckpointError, match=rf"^{trained}: has no checkpoint yet"):
        Run.at(trained).best()


def test_truncated_checkpoint_is_told_and_the_older_one_used_to_resume(tiny, digits, bucket):
    place = bucket / "run"
    config = tiny(training__learning_rate=1e-30)  # nothing is learned: the first stays the best
    train_into(place, config, digits)
    index = read_index(place)
    assert (index.best, index.last) == ("step-00000004", "step-00000008")
    weights = place / "checkpoints" / index.folders[index.last] / "model.safetensors"
    whole = storage.read_bytes(weights)
    storage.write_bytes(weights, whole[:-7])
    forget_copies()
    rule = rf"^{weights}: is truncated or altered, must have {len(whole)} bytes, got"
    with pytest.raises(CheckpointError, match=rule):
        find_checkpoint(place / "checkpoints" / "last")
    assert find_checkpoint(place).state["step"] == 4
    events: list[Event] = []
    run = Run.at(place)
    config = config.model_copy(
        update={"data": config.data.model_copy(update={"backend": "memory"})}
    )
    train(config, digits, run, on_event=events.append)
    assert [e.epoch for e in events if e.kind == "epoch"] == [2]
    (warning,) = [e.text for e in events if e.kind == "warning"]
    assert warning.startswith(str(weights))
    assert warning.endswith("; an older checkpoint is used")
    forget_copies()
    assert find_checkpoint(place / "checkpoints" / "last").state["step"] == 8


def test_half_an_upload_changes_nothing(tiny, digits, trained):
    before = read_index(trained)
    half = trained / "checkpoints" / "step-00000012.0123abcd" / "model.safetensors"
    storage.write_bytes(half, b"half")
    forget_copies()
    assert Run.at(trained).best().path.name == before.best
    train_into(trained, tiny(training__num_epochs=3), digits)
    names = storage.list_files(trained / "checkpoints")
    assert not any("0123abcd" in name for name in names)
    assert read_index(trained).last == "step-00000012"


def test_checkpoint_that_was_not_put_is_put_by_the_next_training(tiny, digits, trained):
    files = {n: storage.read_bytes(trained / n) for n in storage.list_files(trained)}
    train_into(trained, tiny(training__num_epochs=3), digits)
    storage.delete_folder(trained)
    for name, content in files.items():  # as it was after two epochs
        storage.write_bytes(trained / name, content)
    assert read_index(trained).last == "step-00000008"
    events: list[Event] = []
    train_into(trained, tiny(training__num_epochs=3), digits, events.append)
    assert not [e for e in events if e.kind == "epoch"]  # nothing was left to train
    assert read_index(trained).last == "step-00000012"
    lines = metrics_of(storage.read_bytes(trained / "metrics.jsonl"))
    assert [line["epoch"] for line in lines] == [1, 2, 3]


@pytest.mark.slow
def test_training_killed_and_resumed_on_an_empty_machine_ends_like_an_undisturbed_one(
    tiny, bucket, tmp_path, private_mlflow, digits, monkeypatch
):
    root, place = bucket / "data", bucket / "runs" / "run"
    prepare("digits", root=root)
    options = {"training__num_epochs": 30, "training__checkpoint_every_minutes": 1e-3}
    config = tiny(**options, data__root=str(root))
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(config.to_mapping()))
    program = [sys.executable, "-m", "raypixel", "train", str(file), "--run", "run"]
    program += ["--runs", str(bucket / "runs")]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(program, stdout=log, stderr=log)
        deadline = time.monotonic() + 400
        while (index := read_index(place)) is None or index.last < "step-00000012":
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, "waited too long"
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert len(metrics_of(storage.read_bytes(place / "metrics.jsonl"))) < 30
    forget_copies()
    resumed = subprocess.run([*program, "--resume"], capture_output=True, text=True, timeout=300)
    assert resumed.returncode == 0, resumed.stderr
    assert f"checkpoint  {place}/checkpoints/best" in resumed.stderr
    train_into(tmp_path / "whole", tiny(**options), digits)
    whole = (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert metrics_of(storage.read_bytes(place / "metrics.jsonl")) == metrics_of(whole)
    weights = working_copy(place, purpose=WRITER) / "checkpoints" / "last" / "model.safetensors"
    theirs = tmp_path / "whole" / "checkpoints" / "last" / "model.safetensors"
    assert weights.read_bytes() == theirs.read_bytes()
    assert storage.read_bytes(place / "samples.png").startswith(b"\x89PNG")
