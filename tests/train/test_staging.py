"""A set that is streamed: one training in this process, resumed, by workers that read through Ray Data, and in a sweep."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from raypixel import storage
from raypixel.data import Manifest
from raypixel.data.stream import open_split
from raypixel.errors import CheckpointError, DataError
from raypixel.evaluation import evaluate_splits
from raypixel.experiment import load_experiment
from raypixel.runs import Run
from raypixel.sweeps.ledger import read_ledger
from raypixel.train import staging
from raypixel.train.data_parallel import raypixel_error
from raypixel.train.start import read_splits
from tests.striped import write_striped
from tests.sweeps.test_sweep_run import Watch, load
from tests.sweeps.test_sweep_run import run as run_sweep
from tests.train.test_start import metrics_of, weights_of
from tests.trained import train_into

SHARDS = {"train": (3000, 2500, 1700), "val": (500,), "test": (300,)}


@pytest.fixture(scope="session")
def striped(tmp_path_factory) -> tuple[Path, Manifest]:
    """A set of 7,200 train images in blocks of 400: with 1 MiB of memory, windows of up to 2,730."""
    root = tmp_path_factory.mktemp("prepared")
    manifest = write_striped(
        root, shards=SHARDS, block_images=400, image_shape=(1, 8, 8), num_levels=4
    )
    return root, manifest


def options(root: Path, **changes) -> dict:
    overrides = {
        "model.hidden_size": 4,
        "model.num_layers": 1,
        "model.output_size": 4,
        "data.name": "striped",
        "data.root": str(root),
        "data.backend": "stream",
        "data.stream_memory_mib": 1,
        "training.batch_size": 500,
        "training.num_epochs": 2,
        "training.schedule": "constant",
        "scaling.num_workers": 0,
    }
    return overrides | {key.replace("__", "."): value for key, value in changes.items()}


def experiment(root: Path, **changes):
    return load_experiment("digits_pixelcnn", options(root, **changes))


@pytest.fixture(scope="session")
def whole(striped, tmp_path_factory) -> Path:
    """An undisturbed training in this process."""
    folder = tmp_path_factory.mktemp("whole")
    train_into(folder, experiment(striped[0]), striped[1])
    return folder


def test_a_training_resumed_in_the_middle_of_an_epoch_ends_like_an_undisturbed_one(
    striped, whole, tmp_path
):
    root, manifest = striped
    assert len(read_splits(experiment(root).data, manifest)["train"].shuffled(0, 0)) > 2
    for num_steps in (6, 23):  # of 15 in an epoch, both in the middle of it
        cut = experiment(root, training__max_steps=num_steps)
        train_into(tmp_path, cut, manifest)
    train_into(tmp_path, experiment(root), manifest)
    assert metrics_of(tmp_path)[-1] == metrics_of(whole)[-1]
    assert weights_of(tmp_path) == weights_of(whole)


def test_a_stream_is_not_resumed_from_memory_nor_with_another_window(striped, tmp_path):
    root, manifest = striped
    short = experiment(root, training__max_steps=1)
    train_into(tmp_path, short, manifest)
    run = Run.at(tmp_path)
    held = experiment(root, data__backend="memory")
    with pytest.raises(CheckpointError, match=r"data.backend 'stream' as before, got None"):
        run.begin(held, manifest, resume=True)
    other = experiment(root, data__stream_memory_mib=2)
    with pytest.raises(CheckpointError, match=r"data.stream_memory_mib 1 as before, got 2"):
        run.begin(other, manifest, resume=True)


def test_a_run_keeps_its_backend_when_auto_would_choose_another(striped, tmp_path):
    root, manifest = striped
    run = Run.at(tmp_path / "run")
    auto = experiment(root, data__backend="auto", training__max_steps=1)
    assert run.begin(auto, manifest, resume=False).data.backend == "memory"
    short = experiment(root, training__max_steps=1)
    train_into(run.home, short, manifest)
    assert run.begin(auto, manifest, resume=True) == short
    checkpoint = run.best()
    assert checkpoint.info.experiment["data"]["backend"] == "stream"
    (found,) = evaluate_splits(
        [checkpoint], "test", root=None, device_name="cpu", progress=lambda _: lambda _: None
    )
    assert found.likelihood.num_images == 300


@pytest.mark.ray
@pytest.mark.slow
def test_ray_data_delivers_the_windows_of_a_plan_in_its_order(striped, ray_cluster):
    root, manifest = striped
    config = experiment(root).data
    ours = read_splits(config, manifest)["train"]
    staged = staging.stage(config, manifest, ("train",))
    theirs = staging.open_staged(staged, config, manifest)["train"]
    assert theirs.deliver is staging.deliver
    windows = ours.shuffled(3, 1) + ours.in_order()
    pairs = zip(ours.read(iter(windows)), theirs.read(iter(windows)), strict=True)
    for own, other in pairs:
        assert own.images.equal(other.images)
        assert own.class_labels.equal(other.class_labels)
    lost = replace(windows[0].blocks[0], place=root / "striped" / "nothing.parquet")
    with pytest.raises(Exception, match=r"nothing.parquet: must be a parquet file") as error:
        list(theirs.read(iter([replace(windows[0], blocks=(lost,))])))
    assert isinstance(raypixel_error(error.value), DataError)


@pytest.mark.ray
@pytest.mark.slow
def test_ray_data_reads_shards_where_they_lie_in_storage(striped, bucket, ray_cluster):
    root, manifest = striped
    place = bucket / "data"
    for path in (root / "striped").iterdir():
        storage.upload(path, place / "striped" / path.name)
    config = experiment(root, data__backend="memory").data
    theirs = config.model_copy(update={"root": place})
    for name, split in staging.open_staged(
        staging.stage(theirs, manifest, ("train", "test")), theirs, manifest
    ).items():
        ours = open_split(config, manifest, name)
        assert split.images.equal(ours.images)
        assert split.class_labels.equal(ours.class_labels)
    copy = storage.local_folder(place, purpose="data")
    assert not list(copy.rglob("*.parquet"))  # the driver has no copy
    streamed = theirs.model_copy(update={"backend": "stream"})
    train = staging.open_staged({"train": None}, streamed, manifest)["train"]
    shutil.rmtree(copy)  # as on another machine than that of the plan
    found = torch.cat([window.images.clone() for window in train.once()])
    assert found.equal(open_split(config, manifest, "train").images)
    assert len(train.in_order()) > 2
    shard = place / "striped" / manifest.splits["train"].files[1].name
    content = bytearray(storage.read_bytes(shard))
    content[60] ^= 255
    storage.write_bytes(shard, bytes(content))
    with pytest.raises(DataError, match=r"^s3://.*/striped: shards must be readable, got "):
        staging.stage(theirs, manifest, ("train",))
    storage.write_bytes(shard, bytes(content[:-1]))
    with pytest.raises(DataError, match=r"^s3://.*parquet: must have .* bytes, got "):
        staging.stage(theirs, manifest, ("train",))


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_that_stream_train_what_one_process_does(striped, whole, tmp_path, ray_cluster):
    root, manifest = striped
    config = experiment(root, scaling__num_workers=2, scaling__cpus_per_worker=1)
    metrics = train_into(tmp_path, config, manifest)
    assert metrics["val/num_images"] == SHARDS["val"][0]
    ours, theirs = metrics_of(tmp_path), metrics_of(whole)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs] == [15, 30]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, rel=1e-5)


@pytest.mark.ray
@pytest.mark.slow
def test_trials_of_a_sweep_stream(striped, whole, tmp_path, ray_cluster, private_mlflow):
    root, manifest = striped
    sweep = load(
        tmp_path, root, {"training.seed": [0, 1]}, given=options(root, scaling__num_workers=1)
    )
    lines: list[str] = []
    result = run_sweep(sweep, manifest, tmp_path / "sweep", Watch(), warn=lines.append)
    assert len([line for line in lines if "striped is streamed" in line]) == 1
    assert result.is_complete
    assert [trial.entry.test["num_images"] for trial in result.trials] == [300, 300]
    assert read_ledger(tmp_path / "sweep").facts["data"]["backend"] == "stream"
    first = next(trial for trial in result.trials if trial.trial.config.training.seed == 0)
    assert metrics_of(first.run.folder) == [
        pytest.approx(line, rel=1e-5) for line in metrics_of(whole)
    ]
