"""Files that somebody else wrote: each is read right or refused with one line, soon, and nothing is written outside.

RAYPIXEL_ATTACKS=N tries N mutations of each kind of file instead of 150.
"""

import gzip
import json
import os
import random
import resource
import shutil
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import raypixel
from raypixel import storage
from raypixel.checkpoint import read_checkpoint, write_checkpoint
from raypixel.config import load_yaml, parse_json
from raypixel.data.sources.imagenet import find_imagenet, read_imagenet
from raypixel.data.sources.raw import read_maybe_gzipped
from raypixel.errors import CheckpointError, ConfigError, DataError, RaypixelError, StorageError
from raypixel.experiment import build_experiment_model, check_model
from raypixel.runs import Event, Run, find_checkpoint, writing
from raypixel.runs.events import read_events
from raypixel.runs.remote import read_index
from raypixel.runs.run import claim
from raypixel.runs.tracking.registered_models import register_model
from raypixel.storage import Remote
from raypixel.sweeps.cost import estimate_costs
from raypixel.sweeps.ledger import Ledger, TrialEntry, read_ledger
from raypixel.sweeps.load import load_sweep
from raypixel.sweeps.publishing import publish
from tests.runs.tracking.runs import begin_run, epochs, tell
from tests.test_checkpoint import INFO, reseal, snapshot_of
from tests.trained import train_into

NUM_MUTATIONS = int(os.environ.get("RAYPIXEL_ATTACKS", "150"))
HOSTILE = [
    None, True, -1, 0, 10**30, 1e308, float("nan"), "", "../x", "/etc/passwd", "a\0b", "x" * 10_000,
    [], {}, [[]], {"a": {}}, "\ud800",
]  # fmt: skip


@pytest.fixture
def path(tmp_path) -> Path:
    write_checkpoint(tmp_path / "step-00000007", snapshot_of(), INFO)
    return tmp_path / "step-00000007"


def rewrite_config(path: Path, **changes) -> None:
    config = yaml.safe_load((path / "config.yaml").read_text())
    config["experiment"]["model"] |= changes.pop("model", {})
    (path / "config.yaml").write_text(yaml.safe_dump(config | changes))
    reseal(path)


def seconds(function) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


# --- sizes and numbers that a checkpoint claims


@pytest.mark.parametrize(
    "model", [{"num_layers": 10_000_000}, {"hidden_size": 30_000}, {"output_size": 10**9}]
)
def test_a_model_is_refused_before_it_is_built_if_its_weights_cannot_be_there(path, model):
    rewrite_config(path, model=model)
    checkpoint = read_checkpoint(path)

    def load():
        with pytest.raises(
            CheckpointError,
            match=r"weights do not fit config.yaml: model: .*must (have|be) at most",
        ):
            checkpoint.load_model()

    assert seconds(load) < 5


@pytest.mark.parametrize(
    "changes",
    [
        {"image_shape": value}
        for value in ([1, 10**9, 10**9], [1, 60_000, 60_000], "abc", [1, -4, 5], [0, 4, 5], [1, 4], [1.0, 4, 5], None)
    ] + [{"num_levels": value} for value in (0, -1, 10**12, "256", None)]
    + [{"num_classes": value} for value in (-1, 10**12, "x")] + [{"experiment": value} for value in (None, 3, "x")],
    ids=str,
)  # fmt: skip
def test_numbers_that_no_model_has_are_refused(path, changes):
    config = yaml.safe_load((path / "config.yaml").read_text())
    (path / "config.yaml").write_text(yaml.safe_dump(config | changes))
    reseal(path)
    with pytest.raises(CheckpointError, match=r"config.yaml or state.json is not ours$"):
        read_checkpoint(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_everywhere(tmp_path, value, private_mlflow):
    snapshot = snapshot_of()
    weights = {name: tensor.clone() for name, tensor in snapshot.weights.items()}
    next(reversed(weights.values())).view(-1)[-1] = value
    write_checkpoint(tmp_path / "bad", type(snapshot)(weights, {}, snapshot.state), INFO)
    rule = "weights must be finite, got a NaN or an infinity"
    with pytest.raises(CheckpointError, match=rule):
        raypixel.load(tmp_path / "bad")
    with pytest.raises(CheckpointError, match=rule):
        register_model(read_checkpoint(tmp_path / "bad"), "bad")
    from raypixel.serving.launch import Launch, check
    from raypixel.serving.settings import Settings

    with pytest.raises(CheckpointError, match=rule):
        check(Launch(Settings(models={"a": str(tmp_path / "bad")})), is_local=True, environment={})


# --- sizes that an experiment or a sweep claims


def test_a_model_too_large_for_the_machine_is_refused_where_it_would_be_built(tiny, digits):
    large = tiny(model__hidden_size=60_000)
    assert check_model(large, digits) > 10**10  # another machine may have room

    def build():
        with pytest.raises(
            ConfigError, match=r"model: must have at most [\d,]+ parameters, got more"
        ):
            build_experiment_model(large, digits)

    assert seconds(build) < 5
    with pytest.raises(ConfigError, match="num_layers must be at most 65,536, got 10,000,000"):
        check_model(tiny(model__num_layers=10_000_000), digits)
    many = tiny(model__num_layers=60_000)

    def count():
        with pytest.raises(ConfigError, match="must have at most 4,000 tensors, got more"):
            check_model(many, digits)

    assert seconds(count) < 60


def test_a_dry_run_counts_a_model_too_large_to_build(tmp_path, digits_root):
    file = tmp_path / "large.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "name": "large",
                "method": "grid",
                "metric": {"name": "val/bits_per_dim", "goal": "minimize"},
                "parameters": {"model.hidden_size": {"values": [4, 60_000]}},
                "raypixel": {"base": "digits_pixelcnn"},
            }
        )
    )
    sweep = load_sweep(file, {"data.root": str(digits_root)})
    small, large = sorted(sweep.num_parameters.values())
    assert large > 10**10 > small
    assert len(estimate_costs(sweep)) == 1


# --- names


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "..", "", "a\0", 3, None])
def test_names_from_outside_stay_inside(tmp_path, name):
    for place in (tmp_path, Remote("s3://bucket/run")):
        with pytest.raises(StorageError, match="must hold names inside it, got"):
            storage.inside(place, name)
    assert storage.inside(tmp_path, "a/b..c") == tmp_path / "a" / "b..c"


def test_an_object_key_that_leads_out_writes_nothing_outside(bucket, tiny, digits, s3_endpoint):
    import boto3

    place = bucket / "runs" / "one"
    train_into(place, tiny(training__num_epochs=1), digits)
    index = read_index(place)
    name = place.key.removeprefix(f"{bucket.bucket}/")
    key = f"{name}/checkpoints/{index.folders[index.last]}/../../../../../../escaped"
    boto3.client("s3", endpoint_url=s3_endpoint).put_object(
        Bucket=bucket.bucket, Key=key, Body=b"x"
    )
    shutil.rmtree(os.environ["RAYPIXEL_CACHE"])
    with pytest.raises(StorageError, match=r"must hold names inside it, got '(\.\./)+escaped'"):
        find_checkpoint(place)
    assert not list(Path(os.environ["RAYPIXEL_CACHE"]).parent.rglob("escaped*"))


@pytest.mark.parametrize(
    "change",
    [
        {"folders": {"../../x": "../../x.12345678"}, "best": "../../x", "last": "../../x"},
        {"folders": {"step-1": "../../x"}, "best": "step-1", "last": "step-1"},
        {"folders": {"step-1": 3}, "best": "step-1", "last": "step-1"},
        {"folders": {"step-1": "step-2.12345678"}, "best": "step-1", "last": "step-1"},
        {"folders": [], "best": [], "last": {}},
    ],
)
def test_an_index_of_names_that_are_not_ours_is_refused(bucket, change):
    text = json.dumps({"format_version": 1, **change}).encode()
    storage.write_bytes(bucket / "run" / "checkpoints" / "index.json", text)
    with pytest.raises(CheckpointError, match=r"is damaged, checkpoints/index.json cannot be read"):
        read_index(bucket / "run")


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": 3},
        {"run_folder": "../../x"},
        {"run_folder": "/x"},
        {"run_folder": "trials/" + "9" * 256},
        {"epoch": []},
    ],
)
def test_a_trial_that_is_not_ours_is_refused(tmp_path, change):
    Ledger(tmp_path, {"id": "x"}, {"a": TrialEntry("a", "a", {}, 0, "trials/001-a")}).write()
    contents = json.loads((tmp_path / "trials.json").read_text())
    contents["trials"][0] |= change
    (tmp_path / "trials.json").write_text(json.dumps(contents))
    with pytest.raises(CheckpointError, match=r"trials.json: is damaged, a trial is not ours$"):
        read_ledger(tmp_path)


# --- archives and nesting


def test_a_bomb_is_not_unpacked(tmp_path):
    with gzip.open(tmp_path / "train-images-idx3-ubyte.gz", "wb", compresslevel=1) as file:
        for _ in range(300):
            file.write(bytes(1 << 20))
    with pytest.raises(DataError, match="must have at most 268,435,456 bytes unpacked, got more"):
        read_maybe_gzipped(tmp_path / "train-images-idx3-ubyte.gz")


HEADERS = [
    b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (%s,), }",
    b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (999999999999999, 3072), }",
    b"\x93NUMPY\x01\x00v\x00{'descr': '|V999999999', 'fortran_order': False, 'shape': (-1,), }",
    b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65_535,
    b"\x93NUMPY\x03\x00\x00\x00\x00\x00",
    b"\x93NUMPY\x01\x00v\x00{'descr': '<i8', 'fortran_order': False, 'shape': (9999999999,), }",
    b"",
]


@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
@pytest.mark.parametrize("member", ["data", "labels"])
def test_an_npz_header_that_claims_too_much_is_refused(tmp_path, header, member):
    contents = {"data": np.zeros((20, 3072), np.uint8), "labels": np.ones(20, np.int64)}
    for name in ("train_data_batch_1.npz", "val_data.npz"):
        np.savez(tmp_path / name, **contents)
    with zipfile.ZipFile(tmp_path / "train_data_batch_1.npz", "w") as archive:
        for name, value in contents.items():
            with archive.open(f"{name}.npy", "w") as file:
                if name == member:
                    file.write(header.ljust(128) + b"\n")
                else:
                    np.lib.format.write_array(file, value)
    with pytest.raises(DataError, match=r"train_data_batch_1.npz: ") as raised:
        read_imagenet(tmp_path, find_imagenet(tmp_path), size=32)
    assert len(str(raised.value).splitlines()) == 1


def test_numbers_and_dates_that_are_none_are_refused(tmp_path):
    for text in ("a: 2001-99-99", "a: " + "9" * 5000):
        (tmp_path / "odd.yaml").write_text(text)
        with pytest.raises(ConfigError, match=r"odd.yaml: is not valid YAML: "):
            load_yaml(tmp_path / "odd.yaml")


def test_deep_nesting_is_refused(tmp_path):
    (tmp_path / "deep.yaml").write_text("a: " + "[" * 100_000)
    with pytest.raises(ConfigError, match=r"deep.yaml: is nested too deeply"):
        load_yaml(tmp_path / "deep.yaml")
    for text in ("[" * 100_000, b"\xff\xfe\xfd", '{"a": 1, "a": 2}'):
        with pytest.raises(ValueError, match=r"nested|UTF-8|twice"):
            parse_json(text)


# --- any change of any file


def leaves(value, path=()):
    """Yield the way to every value of a JSON document."""
    yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        yield from leaves(inner, (*path, key))


def replaced(document, path, value):
    if not path:
        return value
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[path[0]] = replaced(document[path[0]], path[1:], value)
    return copy


def mutated(content: bytes, number: int, *, is_yaml: bool = False) -> bytes:
    """Return a document with a value replaced, dropped or doubled, or with bytes cut, changed or added."""
    chance = random.Random(number)
    if number % 3:
        document = yaml.safe_load(content) if is_yaml else json.loads(content)
        way = chance.choice(list(leaves(document)))
        changed = replaced(document, way, chance.choice(HOSTILE))
        return (yaml.safe_dump(changed) if is_yaml else json.dumps(changed)).encode(
            "utf-8", "surrogatepass"
        )
    start = chance.randrange(len(content))
    stop = start + chance.choice([0, 1, 5, len(content)])
    return (
        content[:start]
        + chance.choice([b"", b"\0", b"\xff", b"[" * 5000, b"9" * 5000])
        + content[stop:]
    )


def refused_or_read(action) -> bool:
    """Return whether a problem was told, in one line each and in time."""
    started = time.process_time()
    try:
        action()
    except RaypixelError as error:
        told = error.problems
    else:
        told = ()
    assert not any("\n" in problem for problem in told)
    assert time.process_time() - started < 5
    return bool(told)


@pytest.mark.parametrize("name", ["checkpoint.json", "config.yaml", "state.json"])
def test_changes_of_a_checkpoints_files(path, name):
    content = (path / name).read_bytes()
    told = 0
    for number in range(NUM_MUTATIONS):
        (path / name).write_bytes(mutated(content, number, is_yaml=name == "config.yaml"))
        if name != "checkpoint.json":
            reseal(path)
        told += refused_or_read(lambda: read_checkpoint(path).load_model())
    assert told > NUM_MUTATIONS / (20 if name == "state.json" else 3)


@pytest.mark.parametrize("name", ["model.safetensors", "training.safetensors"])
def test_changes_of_a_checkpoints_tensors(path, name):
    content = (path / name).read_bytes()
    for number in range(NUM_MUTATIONS):
        chance = random.Random(number)
        start = chance.randrange(min(len(content), 400))
        new = chance.choice([b"", b"\0", b"\xff" * 8, b"9" * 30, b"[" * 5000])
        (path / name).write_bytes(
            content[:start] + new + content[start + chance.choice([0, 1, 8]) :]
        )
        reseal(path)
        refused_or_read(
            lambda: (read_checkpoint(path).load_model(), read_checkpoint(path).training_tensors())
        )


@pytest.mark.parametrize(
    "name", ["run.json", "events.jsonl", "experiment.yaml", "trials.json", "sweep.yaml"]
)
def test_changes_of_a_runs_and_a_sweeps_files(tmp_path, tiny, digits, name):
    sweep, label = tmp_path / "sweep", "trials/001-a"
    run = begin_run(sweep / label, tiny(), digits)
    tell(run, [*epochs(1), Event("end", status="done")])
    (sweep / "sweep.yaml").write_text("name: test\nmetric: {name: val/bits_per_dim}\n")
    Ledger(
        sweep,
        {"id": "x", "finished": None, "metric": "val/bits_per_dim"},
        {"a": TrialEntry("a", "a", {}, 0, label, status="done")},
    ).write()
    file = sweep / name if (sweep / name).exists() else sweep / label / name
    content = file.read_bytes().splitlines()[0] if name == "events.jsonl" else file.read_bytes()

    class Listener:
        """What a publisher is asked, reading what it would read."""

        def follow_sweep(self, record):
            return record()

        def follow(self, run, **options):
            return run.identity(), run.experiment(), read_events(run.folder)

        def finish(self, *_):
            return None

    told = 0
    for number in range(NUM_MUTATIONS):
        file.write_bytes(mutated(content, number, is_yaml=name.endswith(".yaml")) + b"\n")
        told += refused_or_read(lambda: publish(sweep, Listener()))
    assert told > NUM_MUTATIONS / 20


# --- the disk


def test_a_lock_that_is_a_link_leaves_its_target_alone(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "precious").write_text("x")
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(StorageError, match=r"\.lock: cannot be written"), claim(tmp_path / "run"):
        pass
    assert (tmp_path / "precious").read_text() == "x"
    (tmp_path / "run" / ".lock").unlink()
    (tmp_path / "run" / ".lock").write_text("kept")
    with (
        claim(tmp_path / "run"),
        pytest.raises(CheckpointError, match="another process"),
        claim(tmp_path / "run"),
    ):
        pass
    assert (tmp_path / "run" / ".lock").read_text() == "kept"


@contextmanager
def full_disk(most: int):
    """Let no file grow beyond some bytes: what a full disk does, also to root."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_run_on_a_full_disk_says_so_in_a_line(tmp_path, tiny, digits):
    run = Run.at(tmp_path / "run")
    with (
        full_disk(10),
        pytest.raises(StorageError, match=r"experiment.yaml: cannot be written \(File too"),
    ):
        run.begin(tiny(), digits, resume=False)
    run.begin(tiny(), digits, resume=False)
    with writing(run) as writer:
        for name, write in (
            ("metrics.jsonl", lambda: writer.append_metrics({"step": 1.0})),
            ("events.jsonl", lambda: writer.warn("text")),
        ):
            with (
                full_disk(10),
                pytest.raises(StorageError, match=rf"{name}: cannot be written \(File too"),
            ):
                write()
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(StorageError, match=r"\.lock: cannot be written"),
        claim(tmp_path / "file" / "run"),
    ):
        pass


def test_a_picture_on_a_full_disk_leaves_what_was_there(tmp_path):
    from PIL import Image

    from raypixel.figures.files import save_arrays
    from raypixel.grids import save_image

    noise = np.random.default_rng(0).integers(0, 256, (100, 100), dtype=np.uint8)
    (tmp_path / "old.png").write_bytes(b"old")
    with full_disk(100):
        for name in ("old.png", "new.png"):
            with pytest.raises(
                RaypixelError, match=rf"{name}: cannot be written \(File too large\)"
            ):
                save_image(Image.fromarray(noise), tmp_path / name)
        with pytest.raises(RaypixelError, match=r"new.npz: cannot be written \(File too large\)"):
            save_arrays(tmp_path / "new.npz", x=torch.from_numpy(noise))
    assert [path.name for path in tmp_path.iterdir()] == ["old.png"]
    assert (tmp_path / "old.png").read_bytes() == b"old"
