"""A trial that Tune gives up before it began comes again, so often and no more."""

import pytest

from raypixel.sweeps import open_search
from raypixel.sweeps.ledger import Ledger
from raypixel.sweeps.trial_states import TrialStates
from raypixel.sweeps.tune_callbacks import GivenUp, searcher
from tests.sweeps.test_sweep_run import Watch, load


def no_run(*arguments):
    pytest.fail("no trial begins here")


def test_a_trial_given_up_before_it_began_is_asked_for_again_as_often_as_it_may(
    tmp_path, digits_root
):
    sweep = load(tmp_path, digits_root, {"model.hidden_size": [4, 8]}, epochs=1)
    ledger = Ledger(tmp_path)
    states = TrialStates(sweep, ledger, Watch(), no_run, sweep.trials[0].config.data)
    given_up = GivenUp(states, most=1)
    bridge = searcher(states, open_search(sweep, [], []), given_up)
    label = bridge.suggest("a")["order"]["label"]
    other = bridge.suggest("b")["order"]["label"]
    assert bridge.suggest("c") is None  # nothing new, but those two may come again
    bridge.on_trial_complete("a", error=True)
    assert bridge.suggest("d")["order"]["label"] == label
    assert ledger.entries[label].retries == 1
    bridge.on_trial_complete("d", error=True)
    assert given_up.labels == []
    bridge.on_trial_complete("b", error=True)
    assert given_up.labels == [other]
    assert bridge.suggest("e")["order"]["label"] == other
    bridge.on_trial_complete("e", error=True)
    assert bridge.suggest("f") == bridge.FINISHED
