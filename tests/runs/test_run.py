"""A run's folder: one training each, resumed only as the same experiment on the same images."""

import json
import subprocess
import sys

import pytest
import yaml

from raypixel.errors import CheckpointError
from raypixel.runs import Run, claim, writing
from raypixel.train.start import train
from tests.trained import ignore, train_into


@pytest.fixture
def trained(tiny, digits, tmp_path):
    train_into(tmp_path / "run", tiny(), digits)
    return tmp_path / "run"


def test_training_is_not_trained_over(tiny, digits, trained):
    with pytest.raises(CheckpointError, match="holds a training already: add --resume"):
        Run.at(trained).begin(tiny(), digits, resume=False)


def test_training_is_resumed_with_the_same_experiment_only(tiny, digits, trained):
    with pytest.raises(CheckpointError, match=r"with model.hidden_size 8 as before, got 16$"):
        Run.at(trained).begin(tiny(model__hidden_size=16), digits, resume=True)
    longer = tiny(training__num_epochs=5, data__root="elsewhere", scaling__num_workers=3)
    first = json.loads((trained / "run.json").read_text())["id"]
    Run.at(trained).begin(longer, digits, resume=True)
    assert Run.at(trained).identity()["id"] == first
    assert yaml.safe_load((trained / "experiment.yaml").read_text())["training"]["num_epochs"] == 5


def test_training_from_before_an_option_was_there_is_resumed_with_its_default(
    tiny, digits, trained
):
    text = (trained / "experiment.yaml").read_text()
    assert text.count("  dropout: 0.0\n") == 1
    (trained / "experiment.yaml").write_text(text.replace("  dropout: 0.0\n", ""))
    train_into(trained, tiny(training__num_epochs=3), digits)
    with pytest.raises(CheckpointError, match=r"with model.dropout 0.0 as before, got 0.5$"):
        Run.at(trained).begin(tiny(model__dropout=0.5), digits, resume=True)


def test_training_is_resumed_on_the_same_images_only(tiny, digits, trained):
    shards = digits.splits["train"].files
    other = shards[0].model_copy(update={"sha256": "0" * 64})
    split = digits.splits["train"].model_copy(update={"files": (other, *shards[1:])})
    changed = digits.model_copy(update={"splits": {**digits.splits, "train": split}})
    with pytest.raises(CheckpointError, match="must be resumed with the same images, digits under"):
        Run.at(trained).begin(tiny(), changed, resume=True)


def test_folder_in_which_nothing_was_saved_is_free(tiny, digits, tmp_path):
    run = Run.at(tmp_path)
    run.begin(tiny(), digits, resume=False)
    first = run.identity()["id"]
    (tmp_path / "events.jsonl").write_text('{"kind": "warning", "text": "of the first"}\n')
    run.begin(tiny(model__hidden_size=16), digits, resume=False)
    assert first != run.identity()["id"]
    assert not (tmp_path / "events.jsonl").exists()
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        run.best()


def test_damaged_identity_is_told(tiny, digits, trained):
    (trained / "run.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"is damaged, run.json cannot be read"):
        Run.at(trained).begin(tiny(), digits, resume=True)


def test_second_process_is_kept_out_while_the_first_trains(tmp_path):
    code = "from raypixel.runs import claim; import sys, pathlib\n"
    code += "with claim(pathlib.Path(sys.argv[1])): print('held')"
    command = [sys.executable, "-c", code, str(tmp_path)]
    with claim(tmp_path):
        refused = subprocess.run(command, capture_output=True, text=True)
        assert "is being trained by another process" in refused.stderr
    assert subprocess.run(command, capture_output=True, text=True).stdout == "held\n"


def test_lines_of_epochs_that_are_trained_again_are_forgotten(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with writing(Run.at(tmp_path)) as writer:
        for step in (4, 8, 12):
            writer.append_metrics({"step": step})
        with path.open("a") as file:
            file.write('{"step": 1')  # cut short by a kill
        writer.forget_after(8)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [4, 8]


def test_best_link_is_restored_when_a_kill_came_between_checkpoint_and_link(tiny, digits, trained):
    run = Run.at(trained)
    best, last = run.best(), run.last()
    assert best.path == last.path  # the last epoch was the best
    store = trained / "checkpoints"
    older = last.path.with_name("step-00000001")
    older.symlink_to(last.path)
    (store / "best").unlink()
    (store / "best").symlink_to("step-00000001")
    train(tiny(), digits, run, on_event=ignore)  # resumes; nothing left to do
    assert run.best().path == last.path
