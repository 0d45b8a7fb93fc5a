from pathlib import Path

import pytest

from raypixel.errors import ConfigError
from raypixel.experiment import load_experiment, relevant_options
from raypixel.sweeps import load_sweep

SWEEPS = sorted((Path(__file__).parents[1] / "sweeps").glob("*.yaml"))


def write(folder: Path, parameters: str, *, more: str = "", base: str = "digits_pixelcnn") -> Path:
    path = folder / "x.yaml"
    text = f"name: x\nparameters: {{{parameters}}}\nraypixel: {{base: {base}}}\n{more}"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", SWEEPS, ids=[path.stem for path in SWEEPS])
def test_every_sweep_of_the_repository_expands(path, monkeypatch):
    monkeypatch.chdir(path.parents[1])
    sweep, trials = load_sweep(path, {})
    assert sweep.name == path.stem
    assert sweep.description
    sizes = [len(parameter.choices) for parameter in sweep.parameters.values()]
    count = 1
    for size in sizes:
        count *= size
    assert len({trial.label for trial in trials}) == len(trials) == count > 1
    assert len({str(relevant_options(trial.config)) for trial in trials}) == count


def test_the_repository_has_sweeps():
    assert "quickstart" in {path.stem for path in SWEEPS}


def test_a_grid_is_every_combination_and_the_last_parameter_varies_fastest(tmp_path):
    path = write(
        tmp_path,
        "model.hidden_size: {values: [5, 7]}, training.seed: {value: 3}, "
        "model.use_residual: {values: [true, false]}",
    )
    _, trials = load_sweep(path, {})
    seen = [
        (t.config.model.hidden_size, t.config.training.seed, t.config.model.use_residual)
        for t in trials
    ]
    assert seen == [(5, 3, True), (5, 3, False), (7, 3, True), (7, 3, False)]
    assert [trial.label for trial in trials] == [
        "hidden_size=5 use_residual=true",
        "hidden_size=5 use_residual=false",
        "hidden_size=7 use_residual=true",
        "hidden_size=7 use_residual=false",
    ]
    assert trials[0].parameters == {
        "model.hidden_size": 5,
        "training.seed": 3,
        "model.use_residual": True,
    }


def test_a_trial_is_its_base_with_the_overrides_and_its_parameters(tmp_path):
    path = write(tmp_path, "model.hidden_size: {values: [5, 7]}")
    _, trials = load_sweep(path, {"training.num_epochs": 2, "model.hidden_size": 99})
    for trial, hidden_size in zip(trials, (5, 7), strict=True):
        overrides = {"name": "x", "training.num_epochs": 2, "model.hidden_size": hidden_size}
        assert trial.config == load_experiment("digits_pixelcnn", overrides)


def test_a_parameter_may_be_null_and_a_small_number(tmp_path):
    path = write(
        tmp_path,
        "training.gradient_clip_norm: {values: [null, 1.0]}, training.learning_rate: {value: 1e-3}",
    )
    _, trials = load_sweep(path, {})
    assert [t.label for t in trials] == ["gradient_clip_norm=None", "gradient_clip_norm=1.0"]
    assert [t.config.training.gradient_clip_norm for t in trials] == [None, 1.0]
    assert {t.config.training.learning_rate for t in trials} == {1e-3}


def test_one_trial_shows_what_it_has(tmp_path):
    _, trials = load_sweep(write(tmp_path, "training.seed: {value: 3}"), {})
    assert [trial.label for trial in trials] == ["seed=3"]


def test_options_with_the_same_last_word_are_shown_in_full(tmp_path):
    path = write(
        tmp_path,
        "model.seed: {values: [1, 2]}, model.num_layers: {values: [3, 4]}, "
        "training.seed: {values: [0, 1]}",
    )
    with pytest.raises(ConfigError) as caught:  # a model has no seed
        load_sweep(path, {})
    assert len(caught.value.problems) == 8
    assert caught.value.problems[0].endswith("(trial model.seed=1 num_layers=3 training.seed=0)")


def test_options_of_data_and_scaling_are_not_swept(tmp_path):
    path = write(
        tmp_path,
        "data.num_levels: {values: [2, 4]}, scaling.num_workers: {values: [1, 2]}, "
        "data.max_train_images: {values: [10, 20]}",
    )
    with pytest.raises(ConfigError) as caught:
        load_sweep(path, {})
    assert [problem.split(": ", 1)[1].split(",")[0] for problem in caught.value.problems] == [
        "parameters.data.num_levels must be an option of the model or the training",
        "parameters.scaling.num_workers must be an option of the model or the training",
    ]


def test_architectures_can_be_swept_each_with_its_own_options(tmp_path):
    path = write(tmp_path, "model.kind: {values: [pixelcnn, row_lstm, diagonal_bilstm]}")
    _, trials = load_sweep(path, {"model.hidden_size": 8})
    assert [trial.config.model.kind for trial in trials] == [
        "pixelcnn",
        "row_lstm",
        "diagonal_bilstm",
    ]
    assert {trial.config.model.hidden_size for trial in trials} == {8}


def test_problems_of_all_trials_come_at_once(tmp_path):
    path = write(
        tmp_path,
        "model.kernel_size: {values: [3, 4, 6]}, training.batch_size: {values: [0, 1]}",
    )
    with pytest.raises(ConfigError) as caught:
        load_sweep(path, {})
    odd = "x.yaml: model.kernel_size must be odd, got"
    size = "x.yaml: training.batch_size must be greater than or equal to 1, got 0"
    expected = [
        f"{size} (trial kernel_size=3 batch_size=0)",
        f"{odd} 4 (trial kernel_size=4 batch_size=0)",
        f"{size} (trial kernel_size=4 batch_size=0)",
        f"{odd} 4 (trial kernel_size=4 batch_size=1)",
        f"{odd} 6 (trial kernel_size=6 batch_size=0)",
        f"{size} (trial kernel_size=6 batch_size=0)",
        f"{odd} 6 (trial kernel_size=6 batch_size=1)",
    ]
    found = [problem.removeprefix(f"{tmp_path}/") for problem in caught.value.problems]
    assert found == expected


@pytest.mark.parametrize(
    ("parameters", "more", "problem"),
    [
        ("", "", "parameters .*at least 1 item"),
        ("training.seed: {}", "", "training.seed must have either `value` or `values`"),
        (
            "training.seed: {value: 1, values: [1]}",
            "",
            "training.seed must have either `value` or `values`",
        ),
        ("training.seed: {values: []}", "", "training.seed.values .*at least 1 item"),
        ("training.seed: {values: [1, 2, 1]}", "", r"values must differ, got \[1, 2, 1\]"),
        ("training.seed: {vals: [1]}", "", "vals is not a known key"),
        ("training.sed: {value: 1}", "", "training.sed is not a known key, did you mean 'seed'"),
        ("training.seed: {value: 1}", "method: random", "method must be 'grid', got 'random'"),
        (
            "training.seed: {value: 1}",
            "metric: {name: test/bits_per_dim}",
            "metric.name must be 'val/bits_per_dim' or 'val/nll_nats', got 'test/bits_per_dim'",
        ),
        (
            "training.seed: {value: 1}",
            "metric: {goal: maximize}",
            "metric.goal must be 'minimize', got 'maximize'",
        ),
        (
            "training.seed: {value: 1}",
            "methd: grid",
            "methd is not a known key, did you mean 'method'",
        ),
    ],
)
def test_a_wrong_sweep_is_refused(tmp_path, parameters, more, problem):
    with pytest.raises(ConfigError, match=f"^{tmp_path}/x.yaml: .*{problem}"):
        load_sweep(write(tmp_path, parameters, more=more), {})


def test_an_unknown_base_is_refused(tmp_path):
    path = write(tmp_path, "training.seed: {value: 1}", base="digit_pixelcnn")
    with pytest.raises(ConfigError, match="did you mean 'digits_pixelcnn'"):
        load_sweep(path, {})
