"""The command line as a person meets it: data on stdout, the rest on stderr, mistakes in one line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from raypixel.cli import main


def invoke(*arguments: str):
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


def test_help_is_quick_to_import_and_names_every_command():
    code = "import sys, raypixel.cli; print([m for m in ('torch', 'ray', 'mlflow') if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
    text = invoke("--help").output
    assert "Train, sweep, evaluate, sample and serve autoregressive image models" in text
    for command in ("train", "sweep", "evaluate", "sample", "figure", "data", "recipes", "models"):
        assert f"  {command} " in text


@pytest.mark.parametrize("command", ["train", "sweep", "evaluate", "sample", "models", "recipes"])
def test_each_command_explains_itself(command):
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 5


def test_typo_in_a_command_gets_a_suggestion_and_exit_code_2():
    result = invoke("evalute", "x")
    assert result.exit_code == 2
    assert "No such command 'evalute', did you mean 'evaluate'?" in result.stderr


def test_every_problem_of_an_experiment_is_one_line_on_stderr():
    result = invoke(
        "train", "digits_pixelcnn", "--set", "model.kernel_size=4", "--set", "trainin.seed=1"
    )
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "Error: digits_pixelcnn: model.kernel_size must be odd, got 4",
        "Error: digits_pixelcnn: trainin is not a known key, did you mean 'training'?",
    ]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["train", "mnist_pixelcn"], "did you mean 'mnist_pixelcnn'?"),
        (["train", "no/such.yaml"], "no/such.yaml: cannot be read (No such file or directory)"),
        (["train", "--set", "seed"], "--set must be KEY=VALUE, got 'seed'"),
        (["evaluate", "nowhere"], "nowhere: must be a checkpoint directory, got nothing there"),
        (["sample", "nowhere"], "nowhere: must be a checkpoint directory, got nothing there"),
        (["models", "pixelcn"], "did you mean 'pixelcnn'?"),
        (["recipes", "show", "digits"], "recipe must be one of"),
        (["data", "prepare", "minst"], "did you mean 'mnist'?"),
        (
            ["train", "--runs", "/dev/null/x"],
            "/dev/null/x: must be a folder that can be made, got Not",
        ),
        (["report", "/dev/null"], "/dev/null: must be a sweep's folder, got a file"),
        (["report", __file__], f"{__file__}: must be a sweep's folder, got a file"),
        (["sweep", "none.yaml"], "none.yaml: cannot be read (No such file or directory)"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_mistakes_are_one_line_and_exit_code_1(arguments, text):
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert text in line


@pytest.mark.parametrize("name", ["", "..", "../up", "a/b", "-x"])
def test_the_name_of_a_run_is_that_of_a_folder_below_the_others(name):
    result = invoke("train", "--run", name)
    assert result.exit_code == 2
    assert f"Invalid value for '--run': {name!r} is not a name of letters, digits" in result.stderr


def test_a_runs_folder_that_cannot_be_made_stops_a_sweep_too(tmp_path, digits_root):
    file = tmp_path / "x.yaml"
    parameters = "{training.seed: {values: [1, 2]}}"
    file.write_text(f"name: x\nparameters: {parameters}\nraypixel: {{base: digits_pixelcnn}}\n")
    root = f"data.root={digits_root}"
    result = invoke("sweep", str(file), "--set", root, "--runs", "/dev/null/x")
    rule = "must be a folder that can be made"
    assert result.exit_code == 1
    assert result.stderr == f"Error: /dev/null/x: {rule}, got Not a directory\n"


def test_a_sweep_is_told_from_an_experiment(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("parameters: {}\nraypixel: {}\n")
    result = invoke("train", str(file))
    rule = "must be an experiment, got a sweep: `raypixel sweep` takes it"
    assert (result.exit_code, result.stderr) == (1, f"Error: {file}: {rule}\n")


def test_models_shows_what_may_be_chosen():
    lines = {
        line.split()[0]: line for line in invoke("models", "pixelcnn").stdout.splitlines()[:-1]
    }
    assert "  none | layer  " in lines["norm"]
    assert "  int  " in lines["kernel_size"]
    lines = {
        line.split()[0]: line for line in invoke("models", "multiscale").stdout.splitlines()[:-1]
    }
    anything = "multiscale | pixelcnn | pixelcnn_pp | pixelsnail | row_lstm"
    assert f"  diagonal_bilstm | gated_pixelcnn | {anything}  " in lines["base"]
    assert "  diagonal_bilstm | gated_pixelcnn | pixelcnn | row_lstm  " in lines["conditional"]


def test_models_lists_every_option_with_its_meaning():
    from raypixel.models import model_classes

    for kind, model_class in model_classes().items():
        output = invoke("models", kind).stdout
        for name, field in model_class.Config.model_fields.items():
            assert f"  {name} " in output
            assert field.description, f"{kind}.{name} has no description"


def test_a_shown_recipe_is_a_file_that_trains_the_same(tmp_path):
    from raypixel.experiment import load_experiment
    from raypixel.recipes import recipe_names

    assert len(recipe_names()) >= 5
    for name in recipe_names():
        file = tmp_path / f"{name}.yaml"
        file.write_text(f"name: {name}\n" + invoke("recipes", "show", name).stdout)
        assert load_experiment(str(file)) == load_experiment(name)
        assert name in invoke("recipes").stdout


def test_train_evaluate_and_sample_work_together(tmp_path, private_mlflow, digits_root):
    options = ["scaling.num_workers=0", "training.num_epochs=1", "model.hidden_size=4"]
    options += ["model.num_layers=1", f"data.root={digits_root}"]
    arguments = [word for option in options for word in ("--set", option)]
    trained = invoke("train", "digits_pixelcnn", *arguments, "--run", "one")
    assert trained.exit_code == 0, trained.stderr
    assert trained.stdout.startswith("val/bits_per_dim ")
    assert "evaluate runs/one` and" in trained.stderr
    again = invoke("train", "digits_pixelcnn", *arguments, "--run", "one")
    assert again.exit_code == 1
    assert "add --resume" in again.stderr

    shown = invoke("evaluate", "runs/one")
    assert "digits (17 levels), test split, 250 images" in shown.stdout
    numbers = json.loads(invoke("evaluate", "runs/one", "--json", "--split", "val").stdout)
    assert numbers["num_images"] == 250
    assert numbers["bits_per_dim"] == pytest.approx(float(trained.stdout.split()[1]), abs=1e-4)

    mixed = invoke("evaluate", "runs/one", "runs/one/checkpoints/last").stdout.splitlines()
    assert mixed[6] == "mixture of 2: digits (17 levels), test split, 250 images"
    assert mixed[7:] == mixed[1:3]  # of a model with itself

    sampled = invoke("sample", "runs/one", "-n", "5", "--seed", "3", "--out", "out.png")
    assert sampled.stdout == "out.png\n"
    with Image.open("out.png") as first:
        assert first.size == (3 * 66 + 2, 2 * 66 + 2)
        pixels = first.tobytes()
    invoke("sample", "runs/one", "-n", "5", "--seed", "3", "--batch-size", "2", "--out", "b.png")
    with Image.open("b.png") as second:
        assert second.tobytes() == pixels
    refused = invoke("sample", "runs/one", "--class", "7")
    assert refused.exit_code == 1
    assert "--class must be left out: the model has no classes, got 7" in refused.stderr
    refused = invoke("sample", "runs/one", "-n", "1", "--out", "x.txt")
    assert "picture must end in .png, .jpg, .webp, got 'x.txt'" in refused.stderr

    weights = Path("runs/one/checkpoints/best/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    refused = invoke("evaluate", "runs/one")
    assert refused.exit_code == 1
    assert "is truncated or altered" in refused.stderr


def test_recipes_are_listed_as_they_are_loaded():
    from raypixel.experiment import load_experiment
    from raypixel.recipes import recipe_names, recipe_summary

    for name in recipe_names():
        config = load_experiment(name)
        told = [config.name, config.model.kind, config.data.name, config.description]
        assert recipe_summary(name) == told


@pytest.mark.parametrize("arguments", [["recipes"], ["recipes", "show", "digits_pixelcnn"]])
def test_recipes_need_no_torch(arguments):
    code = (
        "import sys\nfrom raypixel.cli import main\n"
        f"main({arguments}, standalone_mode=False)\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
