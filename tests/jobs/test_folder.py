"""A run's folder: one training each, resumed only as the same experiment on the same images."""

import json
import subprocess
import sys

import pytest
import yaml

from raypixel.errors import CheckpointError
from raypixel.jobs.folder import MetricsFile, best_checkpoint, claim, last_checkpoint, open_run
from raypixel.jobs.train import train


@pytest.fixture
def trained(tiny, digits, tmp_path):
    folder = tmp_path / "run"
    open_run(tiny(), digits, folder, resume=False)
    train(tiny(), digits, folder, on_message=lambda message: None)
    return folder


def test_training_is_not_trained_over(tiny, digits, trained):
    with pytest.raises(CheckpointError, match="holds a training already: add --resume"):
        open_run(tiny(), digits, trained, resume=False)


def test_training_is_resumed_with_the_same_experiment_only(tiny, digits, trained):
    with pytest.raises(CheckpointError, match=r"with model.hidden_size 8 as before, got 16$"):
        open_run(tiny(model__hidden_size=16), digits, trained, resume=True)
    longer = tiny(training__num_epochs=5, data__root="elsewhere", scaling__num_workers=3)
    first = json.loads((trained / "run.json").read_text())["id"]
    assert open_run(longer, digits, trained, resume=True) == first
    assert yaml.safe_load((trained / "experiment.yaml").read_text())["training"]["num_epochs"] == 5


def test_training_is_resumed_on_the_same_images_only(tiny, digits, trained):
    shards = digits.splits["train"].files
    other = shards[0].model_copy(update={"sha256": "0" * 64})
    split = digits.splits["train"].model_copy(update={"files": (other, *shards[1:])})
    changed = digits.model_copy(update={"splits": {**digits.splits, "train": split}})
    with pytest.raises(CheckpointError, match="must be resumed with the same images, digits under"):
        open_run(tiny(), changed, trained, resume=True)


def test_folder_in_which_nothing_was_saved_is_free(tiny, digits, tmp_path):
    first = open_run(tiny(), digits, tmp_path, resume=False)
    second = open_run(tiny(model__hidden_size=16), digits, tmp_path, resume=False)
    assert first != second
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        best_checkpoint(tmp_path)


def test_damaged_identity_is_told(tiny, digits, trained):
    (trained / "run.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"is damaged, run.json cannot be read"):
        open_run(tiny(), digits, trained, resume=True)


def test_second_process_is_kept_out_while_the_first_trains(tmp_path):
    code = "from raypixel.jobs.folder import claim; import sys, pathlib\n"
    code += "with claim(pathlib.Path(sys.argv[1])): print('held')"
    command = [sys.executable, "-c", code, str(tmp_path)]
    with claim(tmp_path):
        refused = subprocess.run(command, capture_output=True, text=True)
        assert "is being trained by another process" in refused.stderr
    assert subprocess.run(command, capture_output=True, text=True).stdout == "held\n"


def test_lines_of_epochs_that_are_trained_again_are_forgotten(tmp_path):
    metrics = MetricsFile(tmp_path)
    for step in (4, 8, 12):
        metrics.append({"step": step})
    with metrics.path.open("a") as file:
        file.write('{"step": 1')  # cut short by a kill
    metrics.forget_after(8)
    assert [json.loads(line)["step"] for line in metrics.path.read_text().splitlines()] == [4, 8]


def test_best_link_is_restored_when_a_kill_came_between_checkpoint_and_link(tiny, digits, trained):
    best, last = best_checkpoint(trained), last_checkpoint(trained)
    assert best.path == last.path  # the last epoch was the best
    store = trained / "checkpoints"
    older = last.path.with_name("step-00000001")
    older.symlink_to(last.path)
    (store / "best").unlink()
    (store / "best").symlink_to("step-00000001")
    train(tiny(), digits, trained, on_message=lambda message: None)  # resumes; nothing left to do
    assert best_checkpoint(trained).path == last.path
