"""The order of trials: planned ones, and Bayes's, which learns, keeps to its cap and remembers what ended."""

import math

import pytest
import yaml

from raypixel.sweeps import load_sweep, open_search


def load(folder, parameters, *, method="bayes", run_cap=20, **block):
    path = folder / "x.yaml"
    mapping = {
        "name": "x",
        "method": method,
        "run_cap": run_cap,
        "parameters": parameters,
        "raypixel": {"base": "digits_pixelcnn", **block},
    }
    path.write_text(yaml.safe_dump(mapping, sort_keys=False))
    return load_sweep(path, {})


def run(search, value_of, *, limit=1000):
    """Run a search one trial at a time and return its trials with their values."""
    ended = []
    while not search.is_over and len(ended) < limit:
        trial = search.next()
        if trial is None:
            break
        ended.append((trial, value_of(trial)))
        search.tell(*ended[-1])
    return ended


def learning_rate(trial):
    return trial.config.training.learning_rate


RATE = {"training.learning_rate": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-1}}


def test_planned_trials_come_in_order_without_those_that_ended(tmp_path):
    sweep = load(tmp_path, {"model.hidden_size": {"values": [5, 7, 9]}}, method="grid")
    ended = [(sweep.trials[1], 3.0)]
    assert [t.label for t, _ in run(open_search(sweep, ended), lambda t: 0.0)] == [
        "hidden_size=5",
        "hidden_size=9",
    ]


def test_bayes_learns_where_the_low_values_are(tmp_path):
    late = []
    for seed in range(3):
        sweep = load(tmp_path, RATE, run_cap=40, search_seed=seed)
        ended = run(open_search(sweep), lambda t: abs(math.log10(learning_rate(t)) + 3))
        assert len(ended) == 40
        late += [value for _, value in ended[-15:]]
    assert sum(late) / len(late) < 0.65  # 1.0 for draws that learn nothing


def test_bayes_tells_the_mean_of_the_seeds_and_caps_configurations(tmp_path):
    sweep = load(tmp_path, RATE, run_cap=3, seeds=[1, 2])
    ended = run(open_search(sweep), lambda t: float(t.seed))
    assert [trial.seed for trial, _ in ended] == [1, 2] * 3
    assert len({trial.configuration for trial, _ in ended}) == 3


def test_bayes_tries_nothing_twice_and_ends_when_all_was_tried(tmp_path):
    parameters = {"model.hidden_size": {"min": 3, "max": 5}}
    ended = run(open_search(load(tmp_path, parameters)), lambda t: 1.0)
    assert sorted(t.config.model.hidden_size for t, _ in ended) == [3, 4, 5]


def test_bayes_keeps_to_the_constraints(tmp_path):
    parameters = {"model.hidden_size": {"min": 3, "max": 9}}
    sweep = load(tmp_path, parameters, constraints=["model.hidden_size % 2 == 0"])
    ended = run(open_search(sweep), lambda t: 1.0)
    assert sorted(t.config.model.hidden_size for t, _ in ended) == [4, 6, 8]


def test_bayes_goes_on_after_failures(tmp_path):
    sweep = load(tmp_path, RATE, run_cap=6)
    ended = run(open_search(sweep), lambda t: None if learning_rate(t) > 1e-3 else 1.0)
    assert len(ended) == 6


def test_a_resumed_bayes_hands_out_what_was_begun_and_nothing_that_ended(tmp_path):
    sweep = load(tmp_path, RATE, run_cap=6, seeds=[1, 2])
    first = open_search(sweep)
    ended = run(first, learning_rate, limit=3)
    begun = [first.next()]  # the second seed of the second configuration
    assert begun[0].configuration == ended[2][0].configuration
    rest = run(open_search(sweep, ended, begun), learning_rate)
    assert rest[0][0].label == begun[0].label
    labels = [trial.label for trial, _ in [*ended, *rest]]
    assert len(set(labels)) == len(labels) == 12


@pytest.mark.parametrize("kind", ["normal", "log_normal"])
def test_bayes_refuses_what_optuna_has_no_distribution_for(tmp_path, kind):
    from raypixel.errors import ConfigError

    with pytest.raises(
        ConfigError, match=f"must be uniform or log-uniform under method bayes, got {kind}"
    ):
        load(tmp_path, {"training.learning_rate": {"distribution": kind}})
