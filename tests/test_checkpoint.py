import json
import math
import os
import pickle
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from raypixel.checkpoint import (
    Checkpoint,
    CheckpointStore,
    ModelInfo,
    Snapshot,
    read_checkpoint,
    write_checkpoint,
)
from raypixel.errors import CheckpointError
from raypixel.models.pixelcnn import PixelCNN
from tests.contract import random_model

CONFIG = PixelCNN.Config(hidden_size=4, num_layers=1, output_size=6, use_skip=True)
INFO = ModelInfo({"name": "x", "model": CONFIG.model_dump()}, (1, 4, 5), 5, 10)
FILES = ["checkpoint.json", "config.yaml", "model.safetensors", "state.json"]
FILES.append("training.safetensors")
STATE = {"epoch": 2, "step": 7, "seconds": 1 / 3, "best": math.inf, "name": "é"}


def model_of(seed: int = 0) -> torch.nn.Module:
    return random_model(CONFIG, image_shape=(1, 4, 5), num_levels=5, seed=seed).float()


def snapshot_of(model=None, *, tensors=None, state=STATE) -> Snapshot:
    return Snapshot((model or model_of()).state_dict(), tensors or {}, state)


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


@pytest.fixture
def path(tmp_path) -> Path:
    """A checkpoint that a test may damage."""
    write_checkpoint(tmp_path / "step-00000007", snapshot_of(), INFO)
    return tmp_path / "step-00000007"


def reseal(path: Path, **changes) -> None:
    """Make the index agree with the files again, as a careful forger would."""
    import hashlib

    index = json.loads((path / "checkpoint.json").read_text())
    for name in index["files"]:
        data = (path / name).read_bytes()
        index["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (path / "checkpoint.json").write_text(json.dumps(index | changes))


# --- round trip


def test_every_tensor_comes_back_bit_for_bit(tmp_path):
    torch.manual_seed(0)
    tensors = {
        "float32": torch.randn(3, 4),
        "float64": torch.randn(5, dtype=torch.float64),
        "bfloat16": torch.randn(7).bfloat16(),
        "count": torch.tensor(2**40),
        "bool": torch.tensor([True, False]),
        "empty": torch.empty(0, 3),
        "special": torch.tensor([math.nan, math.inf, -math.inf, -0.0, 1e-45]),
        "strided": torch.randn(4, 6)[:, ::2],
        "channels_last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "needs gradient": torch.randn(2, requires_grad=True),
    }
    write_checkpoint(tmp_path / "step-1", snapshot_of(tensors=tensors), INFO)
    found = read_checkpoint(tmp_path / "step-1").training_tensors()
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert bytes_of(found[name]) == bytes_of(tensor), name


def test_state_and_info_come_back_equal(path):
    checkpoint = read_checkpoint(path)
    assert checkpoint == Checkpoint(path, INFO, STATE)
    assert checkpoint.training_tensors() == {}


def test_the_model_comes_back_bit_for_bit_and_in_evaluation_mode(path):
    loaded = read_checkpoint(path).load_model()
    assert isinstance(loaded, PixelCNN)
    assert loaded.config == CONFIG
    assert not loaded.training
    assert (loaded.num_levels, loaded.image_shape) == (5, (1, 4, 5))
    for name, tensor in model_of().state_dict().items():
        assert bytes_of(loaded.state_dict()[name]) == bytes_of(tensor)
        assert bytes_of(read_checkpoint(path).weights()[name]) == bytes_of(tensor)
    x = torch.randint(0, 5, (3, 1, 4, 5))
    with torch.no_grad():
        assert torch.equal(loaded(x), model_of()(x))


def test_a_checkpoint_holds_its_files_and_no_pickle(path):
    assert sorted(file.name for file in path.iterdir()) == FILES
    assert list(path.parent.iterdir()) == [path]
    for file in path.iterdir():
        assert b"\x80\x04" not in file.read_bytes()[:2]  # no pickle protocol
    assert json.loads((path / "checkpoint.json").read_text())["format_version"] == 1


def test_a_copied_checkpoint_is_as_good(path, tmp_path):
    shutil.copytree(path, tmp_path / "copy")
    assert read_checkpoint(tmp_path / "copy").info == INFO


# --- damage


@pytest.mark.parametrize("name", FILES[1:])
def test_a_truncated_file_is_refused(path, name):
    data = (path / name).read_bytes()
    (path / name).write_bytes(data[:-1])
    sizes = f"must have {len(data)} bytes, got {len(data) - 1}"
    with pytest.raises(CheckpointError, match=rf"/{name}: is truncated or altered, {sizes}$"):
        read_checkpoint(path)


@pytest.mark.parametrize("name", FILES[1:])
def test_one_flipped_bit_is_refused(path, name):
    data = bytearray((path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (path / name).write_bytes(data)
    text = rf"/{name}: is damaged, its sha256 is not that of checkpoint.json$"
    with pytest.raises(CheckpointError, match=text):
        read_checkpoint(path)


@pytest.mark.parametrize("name", FILES[1:])
def test_a_missing_file_is_refused(path, name):
    (path / name).unlink()
    with pytest.raises(CheckpointError, match=rf"7: is incomplete, {name} is missing$"):
        read_checkpoint(path)


def test_a_file_that_the_index_does_not_know_is_refused(path):
    index = json.loads((path / "checkpoint.json").read_text())
    del index["files"]["state.json"]
    (path / "checkpoint.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"7: is incomplete, state.json is missing$"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", '{"format": "raypixel-checkpoint"}', '{"files": 3}', "\x00"],
)
def test_an_index_that_cannot_be_read_is_refused(path, text):
    (path / "checkpoint.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"7: is damaged, checkpoint.json cannot be read$"):
        read_checkpoint(path)


def test_a_newer_version_is_refused(path):
    reseal(path, format_version=2)
    text = r"7: format_version must be 1, got 2 \(written by another version of raypixel\?\)$"
    with pytest.raises(CheckpointError, match=text):
        read_checkpoint(path)


def test_the_format_of_another_program_is_refused(path):
    reseal(path, format="other")
    with pytest.raises(CheckpointError, match=r"format_version must be 1"):
        read_checkpoint(path)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"must be a checkpoint directory, got nothing there"):
        read_checkpoint(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"not a raypixel checkpoint, checkpoint.json is mis"):
        read_checkpoint(tmp_path)
    (tmp_path / "last").symlink_to("gone")
    with pytest.raises(CheckpointError, match=r"must be a checkpoint directory, got nothing there"):
        read_checkpoint(tmp_path / "last")


def test_a_pickle_is_never_loaded(path, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    data = pickle.dumps(Bomb())
    (tmp_path / "model.pt").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"must be a checkpoint directory, got a file"):
        read_checkpoint(tmp_path / "model.pt")
    for name in ("model.safetensors", "training.safetensors"):
        (path / name).write_bytes(data)
    reseal(path)
    checkpoint = read_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"model.safetensors: cannot be read \(.*header"):
        checkpoint.load_model()
    with pytest.raises(CheckpointError, match=r"training.safetensors: cannot be read \(.*header"):
        checkpoint.training_tensors()
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.yaml", "a: 1"),
        ("config.yaml", "- 1"),
        ("config.yaml", "image_shape: [1, 2]\nnum_levels: 2\nnum_classes: 0\nexperiment: {}"),
        ("config.yaml", "experiment: !!python/object:os.system {}"),
        ("state.json", "{"),
    ],
)
def test_a_config_or_state_that_is_not_ours_is_refused(path, name, text):
    (path / name).write_text(text)
    reseal(path)
    with pytest.raises(
        CheckpointError, match=r"7: is damaged, config.yaml or state.json is not ours$"
    ):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("hidden_size: 4", "hidden_size: 5", "size mismatch for"),
        ("use_skip: true", "use_skip: false", "Unexpected key"),
        ("num_layers: 1", "num_layers: 2", "Missing key"),
        ("kind: pixelcnn", "kind: lstm", "kind must be one of"),
        ("hidden_size: 4", "hiden_size: 4", "hiden_size is not a known key"),
    ],
)
def test_weights_that_do_not_fit_their_config_are_refused(path, old, new, reason):
    text = (path / "config.yaml").read_text()
    assert old in text
    (path / "config.yaml").write_text(text.replace(old, new))
    reseal(path)
    rule = rf"7: weights do not fit config.yaml: .*{reason}"
    with pytest.raises(CheckpointError, match=rule) as caught:
        read_checkpoint(path).load_model()
    assert "\n" not in str(caught.value)


def test_an_experiment_named_like_a_number_keeps_its_name(tmp_path):
    info = ModelInfo({**INFO.experiment, "name": "1e5"}, (1, 4, 5), 5, 10)
    write_checkpoint(tmp_path / "step-1", snapshot_of(), info)
    assert read_checkpoint(tmp_path / "step-1").info.experiment["name"] == "1e5"


# --- the store


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def save(store: CheckpointStore, step: int, *, is_best: bool) -> Path:
    return store.save(snapshot_of(state={"step": step}), INFO, step=step, is_best=is_best)


def test_the_store_keeps_the_best_and_the_last_only(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    expected = {
        (1, True): (1, 1),
        (2, False): (1, 2),
        (3, False): (1, 3),
        (4, True): (4, 4),
        (5, False): (4, 5),
        (6, False): (4, 6),
    }
    for (step, is_best), (best, last) in expected.items():
        assert save(store, step, is_best=is_best).name == f"step-0000000{step}"
        kept = {f"step-0000000{number}" for number in (best, last)}
        assert names(store.directory) == sorted(kept | {"best", "last"})
        assert read_checkpoint(store.best).state == {"step": best}
        assert read_checkpoint(store.last).state == {"step": last}


def test_the_first_checkpoint_is_the_best_whatever_it_says(tmp_path):
    store = CheckpointStore(tmp_path)
    save(store, 3, is_best=False)
    assert store.best.resolve() == store.last.resolve() == (tmp_path / "step-00000003").resolve()


def test_the_same_step_again_replaces_the_first(tmp_path):
    store = CheckpointStore(tmp_path)
    save(store, 3, is_best=True)
    again = Snapshot(model_of(seed=1).state_dict(), {}, {"step": 3, "again": True})
    store.save(again, INFO, step=3, is_best=False)
    for link in (store.best, store.last):
        assert read_checkpoint(link).state == {"step": 3, "again": True}
    assert names(tmp_path) == ["best", "last", "step-00000003"]


def test_links_are_relative_so_that_a_run_can_be_moved(tmp_path):
    save(CheckpointStore(tmp_path / "run"), 3, is_best=True)
    (tmp_path / "run").rename(tmp_path / "moved")
    store = CheckpointStore(tmp_path / "moved")
    assert read_checkpoint(store.best).state == read_checkpoint(store.last).state == {"step": 3}


def test_the_newest_is_the_one_with_the_most_steps(tmp_path):
    store = CheckpointStore(tmp_path)
    assert store.newest() == (None, [])
    for step in (9, 10, 100):
        save(store, step, is_best=step == 10)
    checkpoint, problems = store.newest()
    assert (checkpoint.state, problems) == ({"step": 100}, [])


def test_a_damaged_newest_is_passed_over_and_named(tmp_path):
    store = CheckpointStore(tmp_path)
    save(store, 1, is_best=True)
    last = save(store, 2, is_best=False)
    (last / "model.safetensors").write_bytes(b"")
    checkpoint, (problem,) = store.newest()
    assert checkpoint.state == {"step": 1}
    assert problem.startswith(f"{last}/model.safetensors: is truncated or altered")
    (tmp_path / "step-00000001" / "checkpoint.json").unlink()
    checkpoint, problems = store.newest()
    assert checkpoint is None
    assert len(problems) == 2
    save(store, 2, is_best=False)
    assert store.newest()[0].state == {"step": 2}


# --- a disk that is full, a process that is killed


@contextmanager
def largest_file(num_bytes: int):
    """Let no file of this process grow above a size, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("state", "num_bytes"),
    [(STATE, 1000), ({"text": "x" * 200_000}, 100_000)],
    ids=["tensors", "text"],
)
def test_a_disk_that_fills_leaves_the_previous_checkpoint(tmp_path, state, num_bytes):
    store = CheckpointStore(tmp_path)
    save(store, 1, is_best=True)
    text = r"step-00000002: cannot be written \(.*File too large"
    with largest_file(num_bytes), pytest.raises(CheckpointError, match=text):
        store.save(snapshot_of(state=state), INFO, step=2, is_best=True)
    assert names(tmp_path) == ["best", "last", "step-00000001"]
    assert store.newest()[0].state == {"step": 1}


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"step-1: cannot be written \(Not a directory\)$"):
        write_checkpoint(tmp_path / "file" / "step-1", snapshot_of(), INFO)


def test_what_a_killed_process_of_the_same_id_left_is_not_in_the_way(tmp_path):
    left = tmp_path / f".step-00000002.{os.getpid()}.tmp"
    left.mkdir()
    (left / "junk").write_text("")
    path = save(CheckpointStore(tmp_path), 2, is_best=True)
    assert names(path) == FILES
    assert names(tmp_path) == ["best", "last", "step-00000002"]


# Forks, saves step 2 over step 1, and kills the child at its n-th event of the file system, for n = 0, 1, 2, ..
# until a child finishes; then kills one in the middle of writing 256 MB of tensors.
KILLING = """
import os, shutil, signal, sys, time
from pathlib import Path
import torch
from raypixel.checkpoint import CheckpointStore, ModelInfo, Snapshot, read_checkpoint

info = ModelInfo({"name": "x"}, (1, 1, 1), 2, 0)
folder = Path(sys.argv[1])
EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.symlink", "os.rmdir", "os.scandir")

def save(step, size):
    snapshot = Snapshot({"w": torch.full((size,), float(step))}, {}, {"step": step})
    CheckpointStore(folder).save(snapshot, info, step=step, is_best=True)

def start_again():
    shutil.rmtree(folder, ignore_errors=True)
    save(1, 10)

def check(may_be):
    checkpoint, problems = CheckpointStore(folder).newest()
    assert problems == [], problems  # nothing that looks complete is not
    step = checkpoint.state["step"]
    assert step in may_be, step
    assert checkpoint.weights()["w"].eq(step).all()
    for link in ("best", "last"):
        read_checkpoint(folder / link)
    return step

def killed_at(event):
    start_again()
    child = os.fork()
    if child == 0:
        seen = 0
        def hook(name, _):
            nonlocal seen
            if name in EVENTS:
                if seen == event:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen += 1
        sys.addaudithook(hook)
        save(2, 10)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])

steps, event = [], 0
while killed_at(event):
    steps.append(check({1, 2}))
    event += 1
assert check({2}) == 2
assert steps == sorted(steps) and set(steps) == {1, 2}, steps

start_again()
child = os.fork()
if child == 0:
    save(2, 64_000_000)
    os._exit(0)
while not [p for p in folder.glob(".step-*/model.safetensors") if p.stat().st_size > 1_000_000]:
    time.sleep(0.0005)
os.kill(child, signal.SIGKILL)
assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
(left,) = folder.glob(".step-*/model.safetensors")
print(len(steps), check({1}), left.stat().st_size)
"""


def test_a_process_killed_anywhere_leaves_a_complete_checkpoint(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLING, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    num_kills, step, num_bytes = map(int, done.stdout.split())
    assert num_kills > 20
    assert step == 1
    assert num_bytes > 1_000_000
