import os
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from raypixel.checkpoint import CheckpointStore, Snapshot, read_checkpoint, write_checkpoint
from raypixel.errors import CheckpointError
from tests.test_checkpoint import FILES, INFO, STATE, model_of, snapshot_of


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
