"""The zoo: `zoo:NAME` is a checkpoint everywhere, and the numbers of its cards are true."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import raypixel
from raypixel.cli import main
from raypixel.data import prepare
from raypixel.data.stream import open_split
from raypixel.errors import CheckpointError, ConfigError
from raypixel.evaluation import checkpoint_nats, open_data
from raypixel.runs import find_checkpoint
from raypixel.serving.launch import Launch, absolute, parse_models
from raypixel.serving.settings import Settings
from raypixel.zoo import CARD, FEW_IMAGES, Card, read_card, zoo_folder, zoo_names
from tests.trained import train_into

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "zoo.py"


@pytest.fixture(scope="module")
def made(tmp_path_factory, digits_root) -> tuple[Path, Path]:
    """A zoo of one model that is trained for a moment, and the run that it is of."""
    from raypixel.data import load_manifest
    from raypixel.experiment import load_experiment

    folder = tmp_path_factory.mktemp("zoo")
    options = {
        "model.hidden_size": 8,
        "model.num_layers": 1,
        "model.output_size": 8,
        "data.root": str(digits_root),
        "training.num_epochs": 1,
        "scaling.num_workers": 0,
    }
    config = load_experiment("digits_pixelcnn", options)
    train_into(folder / "run", config, load_manifest(digits_root, "digits"))
    told = {"commit": "abc", "machine": "a test", "published": "nothing", "license": "CC BY 4.0"}
    arguments = [word for option, text in told.items() for word in (f"--{option}", text)]
    run_script(folder, "add", "small", str(folder / "run"), *arguments, "--set", "a.b=1")
    return folder / "zoo", folder / "run"


def run_script(folder: Path, *arguments: str, code: int = 0) -> str:
    environment = {**os.environ, "RAYPIXEL_ZOO": str(folder / "zoo"), "TMPDIR": str(folder)}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], env=environment, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    return done.stdout


@pytest.fixture
def zoo(made, monkeypatch) -> Path:
    monkeypatch.setenv("RAYPIXEL_ZOO", str(made[0]))
    return made[0]


def invoke(*arguments: str):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_model_is_its_runs_best_checkpoint_without_what_only_training_needs(zoo, made):
    assert zoo_names() == ["small"]
    found, best = find_checkpoint("zoo:small"), find_checkpoint(made[1])
    assert str(found.where) == "zoo:small"
    assert found.training_tensors() == {}
    ours, theirs = found.weights(), best.weights()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert found.info.experiment["data"]["root"] == "data"
    x = raypixel.load("zoo:small").sample(3, seed=5)
    assert torch.equal(x, raypixel.load(made[1]).sample(3, seed=5))


def test_its_card_says_what_it_is(zoo):
    card = read_card("small")
    assert (card.recipe, card.options, card.data) == ("digits_pixelcnn", ("a.b=1",), "digits")
    assert (card.levels, card.num_images, card.commit) == ("17 levels", 250, "abc")
    assert card.num_parameters == sum(
        p.numel() for p in raypixel.load("zoo:small").network.parameters()
    )
    assert card.bits_per_dim == pytest.approx(card.nll_nats / 64 / 0.693147, rel=1e-4)
    assert card.few_nll_nats == card.nll_nats  # of 250 images


def test_the_script_computes_the_number_again_and_tells_a_wrong_one(zoo):
    path, nats = zoo / "small" / CARD, read_card("small").nll_nats
    text = path.read_text()
    path.write_text(text.replace(f"\nnll_nats: {nats}", "\nnll_nats: 1.0"))
    try:
        found = run_script(zoo.parent, code=1)
    finally:
        path.write_text(text)
    assert f"{nats:.3f} nats" in found
    assert "250 images; card 1.000: DIFFERS" in found


def test_every_command_takes_it(zoo, digits_root, tmp_path, private_mlflow):
    listed = invoke("zoo").stdout.splitlines()
    assert listed[1].startswith("zoo:small  digits (17 levels)")
    assert invoke("zoo", "show", "small").stdout == (zoo / "small" / CARD).read_text()
    root = ("--root", digits_root)
    numbers = json.loads(invoke("evaluate", "zoo:small", *root, "--json").stdout)
    assert numbers["checkpoint"] == "zoo:small"
    assert numbers["nll_nats"] == pytest.approx(read_card("small").nll_nats, abs=1e-3)
    for command in (
        ("sample", "zoo:small", "-n", "2", "--out", tmp_path / "a.png"),
        ("complete", "zoo:small", "--split", "test", "--index", "0:2", *root),
        ("score", "zoo:small", "--split", "test", "--index", "0:2", *root),
    ):
        done = invoke(*command)
        assert done.exit_code == 0, done.stderr
    options = ("model.hidden_size=8", "model.num_layers=1", "model.output_size=8")
    options += (f"data.root={digits_root}", "training.num_epochs=1", "scaling.num_workers=0")
    sets = [word for option in options for word in ("--set", option)]
    trained = invoke("train", "digits_pixelcnn", *sets, "--init", "zoo:small")
    assert trained.exit_code == 0, trained.stderr
    assert "begins with the weights of zoo:small" in trained.stderr


def test_a_service_of_nothing_else_serves_all_of_it(zoo):
    models = {"small": "zoo:small"}
    assert parse_models((), None) == models
    assert parse_models((), "zoo:small") == models
    assert parse_models(("a=zoo:small",), None) == {"a": "zoo:small"}
    assert absolute(Launch(Settings(models=models))).settings.models == models


def test_an_unknown_name_is_told_with_a_near_one(zoo, tmp_path, monkeypatch):
    text = "zoo:NAME must be one of small, got 'smal', did you mean 'small'?"
    assert text in invoke("sample", "zoo:smal").stderr
    with pytest.raises(CheckpointError, match=r"one of small, got '\.\./run'"):
        find_checkpoint("zoo:../run")
    monkeypatch.setenv("RAYPIXEL_ZOO", str(tmp_path))
    with pytest.raises(CheckpointError, match="a model, and the zoo has none, got 'small'"):
        find_checkpoint("zoo:small")
    with pytest.raises(ConfigError, match="got none"):
        parse_models((), None)


@pytest.mark.parametrize("name", zoo_names())
def test_the_models_of_the_package_are_small_and_their_cards_whole(name):
    assert isinstance(read_card(name), Card)
    assert sum(file.stat().st_size for file in (zoo_folder() / name).iterdir()) < 2 << 20
    assert str(find_checkpoint(f"zoo:{name}").info.experiment["data"]["root"]) == "data"


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name", zoo_names())
def test_the_numbers_of_the_package_are_true_on_the_first_images(name, real_data, tmp_path):
    card, checkpoint = read_card(name), find_checkpoint(f"zoo:{name}")
    source = real_data / card.data
    prepare(card.data, root=tmp_path, source=source if source.exists() else None)
    data, manifest = open_data(checkpoint, root=tmp_path)
    few = data.model_copy(update={"backend": "memory", "max_eval_images": FEW_IMAGES})
    split = open_split(few, manifest, "test")
    nats = checkpoint_nats(checkpoint, split, manifest, device=torch.device("cpu"))
    assert float(nats.mean()) == pytest.approx(card.few_nll_nats, abs=5e-3)
