from pathlib import Path

import pytest
import torch

from raypixel.config import dump_yaml, parse_yaml
from raypixel.data import Manifest, Origin, catalog
from raypixel.errors import ConfigError
from raypixel.experiment import (
    build_experiment_model,
    check_model,
    load_experiment,
    load_experiment_mapping,
    parse_experiment,
    relevant_options,
)
from raypixel.models import model_classes
from raypixel.recipes import recipe_names, recipe_text
from tests.contract import labels_for

every_recipe = pytest.mark.parametrize("recipe", recipe_names())

# what each data set's recipes predict: image shape, levels, parameters for each sub-pixel
SHAPES = {
    "binarized_mnist": ((1, 28, 28), 2, 1),
    "cifar10": ((3, 32, 32), 256, 256),
    "digits": ((1, 8, 8), 17, 17),
    "mnist": ((1, 28, 28), 2, 1),
}
# of the recipes with mixtures: levels, parameters for each pixel
MIXTURES = {
    "cifar10_pixelcnn_pp": (256, 100),
    "cifar10_pixelcnn_pp_small": (256, 50),
    "cifar10_pixelsnail": (256, 100),
    "digits_pixelcnn_pp": (17, 15),
    "digits_pixelsnail": (17, 15),
    "mnist_gray_pixelcnn_pp": (256, 15),
}
KINDS = ", ".join(model_classes())


def manifest_of(name: str) -> Manifest:
    """The manifest that preparing a catalogued data set would give, without its shards."""
    entry = next(entry for entry in catalog() if entry.name == name)
    return Manifest(
        name=name,
        format_version=1,
        image_shape=entry.image_shape,
        num_levels=entry.num_levels,
        num_classes=len(entry.class_names),
        class_names=entry.class_names,
        splits={},
        origin=Origin(source="test"),
    )


def write(folder, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


@every_recipe
def test_every_recipe_builds_the_model_of_its_data(recipe):
    config = load_experiment(recipe)
    image_shape, num_levels, num_params = SHAPES[config.data.name]
    shape = (1, num_params, *image_shape)
    if recipe in MIXTURES:
        num_levels, num_params = MIXTURES[recipe]
        shape = (1, num_params, *image_shape[1:])
    model = build_experiment_model(config, manifest_of(config.data.name))
    with torch.no_grad():
        params = model(torch.zeros((1, *image_shape), dtype=torch.uint8), labels_for(model, 1))
    assert model.num_levels == num_levels
    assert params.shape == shape


@every_recipe
def test_every_recipe_is_checked_without_making_its_weights(recipe, monkeypatch):
    config = load_experiment(recipe)
    monkeypatch.setattr(torch.Tensor, "uniform_", on_no_device(torch.Tensor.uniform_))
    check_model(config, manifest_of(config.data.name))


def on_no_device(fill):
    def checked(tensor, *arguments, **options):
        assert tensor.device.type == "meta"
        return fill(tensor, *arguments, **options)

    return checked


@pytest.mark.parametrize("kind", model_classes())
def test_a_model_larger_than_any_memory_is_checked(kind):
    """At 30,000 features a 1x1 layer has 7 GB of weights, and a Diagonal BiLSTM layer 130 GB."""
    options = {"model.kind": kind, "model.hidden_size": 30_000}
    if kind == "multiscale":
        options["model.base"] = {"kind": "pixelcnn", "hidden_size": 30_000}
    check_model(load_experiment("digits_pixelcnn", options), manifest_of("digits"))
    few = {"model.kind": "pixelcnn", "model.hidden_size": 2}
    with pytest.raises(ConfigError, match="must be at least one for each of 3 colors, got 2"):
        check_model(load_experiment("cifar10_pixelcnn", few), manifest_of("cifar10"))


@every_recipe
def test_every_recipe_is_named_after_its_file_and_says_what_it_reproduces(recipe):
    config = load_experiment(recipe)
    assert config.name == recipe
    assert config.description
    assert recipe_text(recipe).startswith("# ")


@every_recipe
def test_writing_and_reading_an_experiment_gives_an_equal_one(recipe):
    config = load_experiment(recipe, {"data.root": "/else where/data", "scaling.num_workers": 3})
    assert parse_experiment(config.to_mapping(), where="x") == config
    assert parse_experiment(parse_yaml(dump_yaml(config), where="x"), where="x") == config


def test_options_of_the_kind_survive_writing():
    config = load_experiment("digits_pixelcnn", {"model.use_skip": True})
    assert config.to_mapping()["model"]["use_skip"] is True


def test_overrides_change_what_they_name_and_nothing_else():
    config = load_experiment("digits_pixelcnn")
    changed = load_experiment("digits_pixelcnn", {"model.hidden_size": 5, "training.seed": 7})
    model = config.model.model_copy(update={"hidden_size": 5})
    training = config.training.model_copy(update={"seed": 7})
    assert changed == config.model_copy(update={"model": model, "training": training})


@pytest.mark.parametrize(
    ("overrides", "problems"),
    [
        (
            {"model.kernel_size": 4, "model.hiden_size": 8, "training.batch_size": 0, "dat.x": 1},
            [
                "digits_pixelcnn: dat is not a known key, did you mean 'data'?",
                "digits_pixelcnn: model.hiden_size is not a known key, did you mean 'hidden_size'?",
                "digits_pixelcnn: model.kernel_size must be odd, got 4",
                "digits_pixelcnn: training.batch_size must be greater than or equal to 1, got 0",
            ],
        ),
        (
            {"model.kind": "pixelcn"},
            [
                f"digits_pixelcnn: model.kind must be one of {KINDS}, got 'pixelcn', "
                "did you mean 'pixelcnn'?"
            ],
        ),
        (
            {"model.kind": ["a"]},
            [f"digits_pixelcnn: model.kind must be one of {KINDS}, got ['a']"],
        ),
        ({"model": 3}, ["digits_pixelcnn: model must be a mapping with a `kind`, got 3"]),
        (
            {"data.num_levels": 4, "data.binarization": "fixed"},
            ["digits_pixelcnn: data.num_levels must be null with binarization 'fixed', got 4"],
        ),
        ({"name": "../up"}, ["digits_pixelcnn: name must match pattern .*'../up'"]),
        (
            {"scaling.device": "tpu"},
            ["digits_pixelcnn: scaling.device must be 'auto', 'cpu' or 'cuda', got 'tpu'"],
        ),
        *(
            (
                {"scaling.num_workers": value},
                [
                    "digits_pixelcnn: scaling.num_workers must be a number of workers, or [least, most] "
                    f"with 1 <= least <= most, got {value!r}"
                ],
            )
            for value in (-1, True, "3", [2, 1], [0, 2], [1, 2, 3])
        ),
    ],
)
def test_problems_name_the_recipe_and_the_option(overrides, problems):
    with pytest.raises(ConfigError) as caught:
        load_experiment("digits_pixelcnn", overrides)
    for found, expected in zip(sorted(caught.value.problems), problems, strict=True):
        start, _, end = expected.partition(".*")
        assert found.startswith(start)
        assert found.endswith(end)


def test_a_recipe_that_is_shown_trains_from_a_file_which_names_it(tmp_path):
    path = write(tmp_path, "my digits.yaml", recipe_text("digits_pixelcnn"))
    assert load_experiment(path) == load_experiment("digits_pixelcnn", {"name": "my-digits"})


def test_a_file_says_only_what_differs_from_its_base(tmp_path):
    first = write(
        tmp_path, "first.yaml", "base: digits_pixelcnn\nname: first\nmodel: {num_layers: 2}\n"
    )
    second = write(
        tmp_path, "second.yaml", f"base: {first}\nname: second\nmodel: {{hidden_size: 5}}\n"
    )
    expected = load_experiment(
        "digits_pixelcnn", {"name": "second", "model.num_layers": 2, "model.hidden_size": 5}
    )
    assert load_experiment(second) == expected


def test_a_section_that_is_no_mapping_replaces_that_of_the_base(tmp_path):
    path = write(tmp_path, "x.yaml", "base: digits_pixelcnn\nname: x\ntraining: 3\n")
    with pytest.raises(ConfigError, match=r"x.yaml: training must be a valid dictionary"):
        load_experiment(path)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_base_that_leads_back_to_itself_is_refused(tmp_path, length):
    paths = [str(tmp_path / f"{k}.yaml") for k in range(length)]
    for k, path in enumerate(paths):
        Path(path).write_text(f"name: x\nbase: {paths[(k + 1) % length]}\n")
    with pytest.raises(ConfigError, match=r"0.yaml: base must not lead back to itself$"):
        load_experiment(paths[0])


def test_the_same_base_twice_is_no_cycle(tmp_path):
    path = write(tmp_path, "digits_pixelcnn.yaml", "base: digits_pixelcnn\nname: own\n")
    assert load_experiment(path).model == load_experiment("digits_pixelcnn").model


def test_an_unknown_recipe_gets_the_names_there_are():
    with pytest.raises(ConfigError, match=r"'digit_pixelcnn'.*did you mean 'digits_pixelcnn'"):
        load_experiment("digit_pixelcnn")
    with pytest.raises(ConfigError, match=r"must be one of .*mnist_pixelcnn"):
        recipe_text("zzz")


def test_an_unknown_base_is_refused(tmp_path):
    path = write(tmp_path, "x.yaml", "name: x\nbase: digit_pixelcnn\n")
    with pytest.raises(ConfigError, match="did you mean 'digits_pixelcnn'"):
        load_experiment(path)
    path = write(tmp_path, "y.yaml", "name: y\nbase: ./none.yaml\n")
    with pytest.raises(ConfigError, match=r"none.yaml: cannot be read \(No such file"):
        load_experiment(path)


def test_names_of_recipes_and_paths_are_told_apart(tmp_path, monkeypatch):
    write(tmp_path, "digits_pixelcnn", "name: not_read")
    monkeypatch.chdir(tmp_path)
    assert load_experiment_mapping("digits_pixelcnn")["name"] == "digits_pixelcnn"
    write(tmp_path, "own.yml", "base: digits_pixelcnn\nname: own")
    assert load_experiment("own.yml").name == "own"
    assert load_experiment("./own.yml").name == "own"


@pytest.mark.parametrize(
    "overrides",
    [
        {"training.num_epochs": 99},
        {"training.max_steps": 7},
        {"training.max_minutes": 1.5},
        {"training.checkpoint_every_minutes": None},
        {"scaling.num_workers": 4},
        {"scaling.num_workers": [1, 4]},
        {"scaling.device": "cpu"},
        {"data.root": "elsewhere"},
        {"name": "other"},
        {"description": "other"},
    ],
)
def test_how_long_and_where_are_not_relevant(overrides):
    changed = load_experiment("digits_pixelcnn", overrides)
    assert changed != load_experiment("digits_pixelcnn")
    assert relevant_options(changed) == relevant_options(load_experiment("digits_pixelcnn"))


@pytest.mark.parametrize(
    "overrides",
    [
        {"model.hidden_size": 31},
        {"model.use_skip": True},
        {"data.max_train_images": 100},
        {"data.num_levels": 4},
        {"training.learning_rate": 1e-3},
        {"training.seed": 1},
        {"training.precision": "bf16"},
        {"training.compile": True},
        {"training.batch_size": 33},
    ],
)
def test_what_determines_the_result_is_relevant(overrides):
    before, after = (load_experiment("digits_pixelcnn", o) for o in ({}, overrides))
    assert relevant_options(before) != relevant_options(after)


def test_another_kind_drops_the_options_that_only_the_old_kind_has():
    config = load_experiment("digits_pixelcnn", {"model.kind": "row_lstm"})
    assert config.model.kind == "row_lstm"
    assert config.model.hidden_size == load_experiment("digits_pixelcnn").model.hidden_size
    with pytest.raises(ConfigError, match=r"model.kernel_size is not a known key"):
        load_experiment("digits_pixelcnn", {"model.kind": "row_lstm", "model.kernel_size": 3})


def test_a_file_that_changes_the_kind_of_its_base_drops_them_too(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("name: x\nbase: digits_pixelcnn\nmodel: {kind: diagonal_bilstm}\n")
    assert load_experiment(str(file)).model.kind == "diagonal_bilstm"
