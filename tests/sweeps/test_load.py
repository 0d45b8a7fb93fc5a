"""The sweep file: what it may say, which trials it makes, and that all of its problems come at once."""

from pathlib import Path

import pytest
import yaml

from raypixel.errors import ConfigError
from raypixel.experiment import load_experiment, relevant_options
from raypixel.sweeps import load_sweep

SWEEPS = sorted((Path(__file__).parents[2] / "sweeps").glob("*.yaml"))
NAMED = {
    "diag_layers",
    "row_layers_cifar10",
    "residual_skip",
    "hidden_size",
    "layer_norm",
    "resnet_blocks",
    "color_conditioning",
    "skip_connections",
    "models",
    "learning_rate_grid",
    "mixtures",
    "mnist_bayes",
    "quickstart",
}


def write(folder: Path, parameters: dict, *, block: dict | None = None, **more) -> Path:
    path = folder / "x.yaml"
    raypixel = {"base": "digits_pixelcnn", **(block or {})}
    path.write_text(
        yaml.safe_dump(
            {"name": "x", "parameters": parameters, "raypixel": raypixel, **more}, sort_keys=False
        )
    )
    return path


def problems_of(path: Path, **overrides) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_sweep(path, overrides)
    return [problem.removeprefix(f"{path}: ") for problem in caught.value.problems]


def grid(**values) -> dict:
    return {name.replace("__", "."): {"values": entry} for name, entry in values.items()}


@pytest.mark.parametrize("path", SWEEPS, ids=[path.stem for path in SWEEPS])
def test_every_sweep_of_the_repository_loads_and_builds_without_data(path, monkeypatch, tmp_path):
    monkeypatch.chdir(path.parents[1])
    sweep = load_sweep(path, {"data.root": str(tmp_path)})
    assert sweep.config.name == path.stem
    assert sweep.config.description
    labels = [trial.label for trial in sweep.trials]
    assert len(set(labels)) == len(labels) > 1
    assert sweep.num_parameters.keys() == set(labels)
    assert len({str(relevant_options(trial.config)) for trial in sweep.trials}) == len(labels)
    if sweep.config.method != "bayes":
        assert sweep.num_trials == len(labels)


@pytest.mark.parametrize("path", SWEEPS, ids=[path.stem for path in SWEEPS])
def test_published_values_of_the_repository_belong_to_trials(path, monkeypatch):
    monkeypatch.chdir(path.parents[1])
    sweep = load_sweep(path, {})
    reference = sweep.config.raypixel.reference
    if reference is not None:
        found = {reference.value_at(trial.options) for trial in sweep.trials}
        assert {entry.value for entry in reference.values} <= found


def test_the_repository_has_every_experiment_of_the_documents():
    assert {path.stem for path in SWEEPS} == NAMED


@pytest.mark.parametrize("path", SWEEPS, ids=[path.stem for path in SWEEPS])
def test_every_sweep_begins_with_its_source(path):
    lines = path.read_text().splitlines()
    header = " ".join(line for line in lines[:6] if line.startswith("#"))
    assert any(word in header for word in ("ocument", "2016a", "eport D", "ourse project"))


def test_a_grid_is_every_combination_and_the_last_parameter_varies_fastest(tmp_path):
    parameters = {
        "model.hidden_size": {"values": [5, 7]},
        "training.seed": {"value": 3},
        "model.use_residual": {"values": [True, False]},
    }
    sweep = load_sweep(write(tmp_path, parameters), {})
    assert [trial.label for trial in sweep.trials] == [
        "hidden_size=5 use_residual=true",
        "hidden_size=5 use_residual=false",
        "hidden_size=7 use_residual=true",
        "hidden_size=7 use_residual=false",
    ]
    seen = [(t.config.model.hidden_size, t.config.model.use_residual) for t in sweep.trials]
    assert seen == [(5, True), (5, False), (7, True), (7, False)]
    assert {trial.seed for trial in sweep.trials} == {3}
    assert sweep.trials[0].parameters["training.seed"] == 3


def test_a_trial_is_its_base_with_the_overrides_its_parameters_and_its_resources(tmp_path):
    block = {"resources": {"workers": 2, "cpus_per_worker": 3, "gpus_per_worker": 0}}
    path = write(tmp_path, grid(model__hidden_size=[5, 7]), block=block)
    sweep = load_sweep(path, {"training.num_epochs": 2, "model.hidden_size": 99})
    for trial, hidden_size in zip(sweep.trials, (5, 7), strict=True):
        overrides = {
            "name": "x",
            "training.num_epochs": 2,
            "model.hidden_size": hidden_size,
            "scaling.num_workers": 2,
            "scaling.cpus_per_worker": 3.0,
            "scaling.device": "cpu",
        }
        assert trial.config == load_experiment("digits_pixelcnn", overrides)


def test_nested_parameters_are_dotted_ones(tmp_path):
    nested = {
        "model": {"parameters": {"hidden_size": {"values": [5, 7]}, "num_layers": {"value": 1}}}
    }
    dotted = {"model.hidden_size": {"values": [5, 7]}, "model.num_layers": {"value": 1}}
    one, other = (load_sweep(write(tmp_path, p), {}).trials for p in (nested, dotted))
    assert one == other


def test_each_seed_is_a_trial_of_its_configuration(tmp_path):
    path = write(tmp_path, grid(model__hidden_size=[5, 7]), block={"seeds": [4, 9]})
    trials = load_sweep(path, {}).trials
    assert [(t.label, t.configuration, t.config.training.seed) for t in trials] == [
        ("hidden_size=5 seed=4", "hidden_size=5", 4),
        ("hidden_size=5 seed=9", "hidden_size=5", 9),
        ("hidden_size=7 seed=4", "hidden_size=7", 4),
        ("hidden_size=7 seed=9", "hidden_size=7", 9),
    ]


def test_run_cap_and_constraints_leave_some_of_the_grid(tmp_path):
    parameters = grid(model__hidden_size=[5, 7, 9], model__num_layers=[1, 2])
    block = {"constraints": ["model.hidden_size > 5 or model.num_layers == 2"]}
    labels = [
        t.label for t in load_sweep(write(tmp_path, parameters, block=block, run_cap=3), {}).trials
    ]
    assert labels == [
        "hidden_size=5 num_layers=2",
        "hidden_size=7 num_layers=1",
        "hidden_size=7 num_layers=2",
    ]


def test_random_draws_are_new_each_within_range_and_the_same_every_time(tmp_path):
    parameters = {
        "model.hidden_size": {"min": 3, "max": 6},
        "training.learning_rate": {
            "distribution": "log_uniform_values",
            "min": 1e-4,
            "max": 1e-2,
        },
    }
    path = write(tmp_path, parameters, method="random", run_cap=24)
    trials = load_sweep(path, {}).trials
    assert [t.label for t in load_sweep(path, {}).trials] == [t.label for t in trials]
    assert len({t.label for t in trials}) == 24
    assert {t.config.model.hidden_size for t in trials} == {3, 4, 5, 6}
    rates = [t.config.training.learning_rate for t in trials]
    assert 1e-4 < min(rates) < 1e-3 < max(rates) < 1e-2


def test_random_stops_when_all_there_is_was_drawn(tmp_path):
    path = write(tmp_path, grid(model__hidden_size=[5, 7]), method="random", run_cap=9)
    assert len(load_sweep(path, {}).trials) == 2


def test_smoke_shrinks_every_trial(tmp_path):
    path = write(tmp_path, grid(model__hidden_size=[5, 7]), block={"seeds": [4, 9]})
    sweep = load_sweep(path, {"training.num_epochs": 50}, is_smoke=True)
    assert [trial.label for trial in sweep.trials] == [
        "hidden_size=5 seed=4",
        "hidden_size=7 seed=4",
    ]
    for trial in sweep.trials:
        assert (trial.config.training.num_epochs, trial.config.training.max_steps) == (1, 2)
        assert trial.config.data.max_train_images == 8


def test_keys_of_wandb_without_meaning_are_told_and_left_out(tmp_path):
    path = write(tmp_path, grid(model__hidden_size=[5, 7]), program="train.py", project="p")
    assert load_sweep(path, {}).warnings == (
        f"{path}: program is a key of W&B's that means nothing here",
        f"{path}: project is a key of W&B's that means nothing here",
    )


def test_problems_of_all_trials_come_at_once_each_told_once(tmp_path):
    parameters = grid(model__kernel_size=[3, 4, 6], training__batch_size=[0, 1])
    assert problems_of(write(tmp_path, parameters)) == [
        "training.batch_size must be greater than or equal to 1, got 0 "
        "(trial kernel_size=3 batch_size=0 and 2 more)",
        "model.kernel_size must be odd, got 4 (trial kernel_size=4 batch_size=0 and 1 more)",
        "model.kernel_size must be odd, got 6 (trial kernel_size=6 batch_size=0 and 1 more)",
    ]


def test_a_model_that_cannot_be_built_is_told_with_what_cannot_be_read(tmp_path):
    parameters = grid(model__hidden_size=[2, 4], training__batch_size=[0, 1])
    found = problems_of(write(tmp_path, parameters), **{"data.name": "cifar10"})
    assert len(found) == 2
    assert "batch_size must be greater" in found[0]
    assert "hidden_size" in found[1]
    assert found[1].endswith("(trial hidden_size=2 batch_size=1)")


def test_options_that_two_trials_must_not_differ_in_are_refused(tmp_path):
    parameters = grid(data__num_levels=[2, 4], data__max_train_images=[10, 20])
    parameters |= {"scaling.num_workers": {"value": 2}}
    assert problems_of(write(tmp_path, parameters)) == [
        "parameters.data.num_levels must have one value, "
        "for likelihoods of other images cannot be compared",
        "parameters.scaling.num_workers must be left out: raypixel.resources says it",
    ]


@pytest.mark.parametrize(
    ("parameter", "problem"),
    [
        ({}, "must have either `value`, or `values`, or `min` and `max`"),
        ({"value": 1, "values": [1]}, "must have either `value`, or `values`, or `min` and `max`"),
        ({"min": 1}, "must have either `value`, or `values`, or `min` and `max`"),
        ({"values": []}, "values .*at least 1"),
        ({"values": [1, 2, 1]}, r"values must differ, got \[1, 2, 1\]"),
        ({"vals": [1]}, "vals is not a known key"),
        ({"min": 1, "max": 2}, "must have `values` under method grid, got a range"),
        ({"values": [1, 2], "probabilities": [0.5, 0.5]}, "must not have probabilities"),
        ({"distribution": "beta", "min": 1, "max": 2}, "distribution must be 'constant'"),
    ],
)
def test_a_wrong_parameter_is_refused(tmp_path, parameter, problem):
    with pytest.raises(ConfigError, match=f"^{tmp_path}/x.yaml: .*training.seed.*{problem}"):
        load_sweep(write(tmp_path, {"training.seed": parameter}), {})


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"method": "hyper"}, "method must be 'grid', 'random' or 'bayes', got 'hyper'"),
        ({"method": "random"}, "run_cap must be given under method random"),
        ({"metric": {"name": "test/bits_per_dim"}}, "metric.name must be 'val/bits_per_dim'"),
        ({"metric": {"goal": "maximize"}}, "metric.goal must be 'minimize', got 'maximize'"),
        ({"methd": "grid"}, "methd is not a known key, did you mean 'method'"),
        ({"early_terminate": {"type": "hyperband"}}, "must have `min_iter`, or `max_iter` and `s`"),
        (
            {"early_terminate": {"type": "hyperband", "min_iter": 5, "max_iter": 2}},
            "min_iter must not be above max_iter, got 5 and 2",
        ),
    ],
)
def test_a_wrong_sweep_is_refused(tmp_path, more, problem):
    with pytest.raises(ConfigError, match=f"^{tmp_path}/x.yaml: .*{problem}"):
        load_sweep(write(tmp_path, grid(training__seed=[1, 2]), **more), {})


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        ({"base": "digit_pixelcnn"}, "did you mean 'digits_pixelcnn'"),
        ({"seeds": [1, 1]}, r"raypixel.seeds must differ, got \[1, 1\]"),
        ({"resources": {"wrokers": 2}}, "wrokers is not a known key, did you mean 'workers'"),
        ({"scheduler": "pbt"}, "pbt must have method random, got grid"),
        ({"constraints": ["model.hidden_size >"]}, "constraints.0 must be an expression"),
        ({"constraints": ["open('x')"]}, "constraints.0 must use comparisons"),
        ({"constraints": ["model.hiden > 1"]}, "model.hiden is not an option of the experiment"),
        ({"constraints": ["model.kind > 1"]}, "'model.kind > 1' cannot be decided"),
        ({"constraints": ["model.hidden_size > 99"]}, "constraints must leave a configuration"),
        (
            {"reference": {"source": "a", "unit": "b", "values": [{"at": {"q": 1}, "value": 1.0}]}},
            "raypixel.reference: q is not an option of the experiment",
        ),
    ],
)
def test_a_wrong_block_is_refused(tmp_path, block, problem):
    with pytest.raises(ConfigError, match=problem):
        load_sweep(write(tmp_path, grid(model__hidden_size=[5, 7]), block=block), {})


def test_an_option_that_the_base_does_not_have_is_refused(tmp_path):
    found = problems_of(write(tmp_path, grid(model__hiden_size=[5, 7])))
    assert found == [
        "model.hiden_size is not a known key, did you mean 'hidden_size'? "
        "(trial hiden_size=5 and 1 more)"
    ]


def test_a_wrong_base_and_unknown_options_come_with_the_other_problems_of_the_file(tmp_path):
    parameters = grid(model__hiden_size=[1], trainig__seed=[1], data__name=["digits"])
    parameters |= grid(model__base__num_layers=[1], scaling__device=["cpu"])
    parameters["training"] = {"parameters": {"seed": {"values": [1]}}}
    path = write(tmp_path, parameters, block={"base": "digit_pixelcnn", "sceduler": "pbt"}, metod=1)
    unknown_block, unknown_key, base, *names = problems_of(path)
    assert unknown_block == "raypixel.sceduler is not a known key, did you mean 'scheduler'?"
    assert unknown_key == "metod is not a known key, did you mean 'method'?"
    assert base.startswith("raypixel.base: recipe must be one of ")
    assert base.endswith("got 'digit_pixelcnn', did you mean 'digits_pixelcnn'?")
    rule = "is not an option of the experiment, did you mean"
    assert names == [
        f"parameters.model.hiden_size {rule} 'model.hidden_size'?",
        f"parameters.trainig.seed {rule} 'training.seed'?",
    ]


def test_a_wrong_base_alone_is_told_once_with_the_unknown_options(tmp_path):
    path = write(tmp_path, grid(model__hiden_size=[1]), block={"base": "none.yaml"})
    assert problems_of(path) == [
        "raypixel.base: none.yaml: cannot be read (No such file or directory)",
        "parameters.model.hiden_size is not an option of the experiment, "
        "did you mean 'model.hidden_size'?",
    ]


def test_an_experiment_is_told_from_a_sweep(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("model: {kind: pixelcnn}\ndata: {name: digits}\n")
    assert problems_of(path) == ["must be a sweep, got an experiment: `raypixel train` takes it"]


def test_architectures_can_be_swept_each_with_its_own_options(tmp_path):
    kinds = ["pixelcnn", "row_lstm", "diagonal_bilstm"]
    sweep = load_sweep(write(tmp_path, grid(model__kind=kinds)), {"model.hidden_size": 8})
    assert [trial.config.model.kind for trial in sweep.trials] == kinds
    assert {trial.config.model.hidden_size for trial in sweep.trials} == {8}


def test_options_with_the_same_last_word_are_shown_in_full(tmp_path):
    parameters = grid(model__norm=["none"], model__num_layers=[1, 2], data__num_levels=[None])
    trials = load_sweep(write(tmp_path, parameters), {}).trials
    assert [trial.label for trial in trials] == ["num_layers=1", "num_layers=2"]
    same = grid(
        model__num_layers=[1, 2], model__base__num_layers=[3, 4], model__kind=["multiscale"]
    )
    sweep = load_sweep(write(tmp_path, same, block={"base": "digits_multiscale"}), {})
    assert sweep.trials[0].label == "model.num_layers=1 model.base.num_layers=3"
