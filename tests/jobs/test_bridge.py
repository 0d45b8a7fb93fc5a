"""A trial that Tune gives up before it began comes again, so often and no more."""

import pytest

from raypixel.jobs.bridge import Again, searcher
from raypixel.jobs.ledger import Ledger
from raypixel.jobs.trials import Book
from raypixel.sweeps import open_search
from tests.jobs.test_sweep import Watch, load


def no_run(*arguments):
    pytest.fail("no trial begins here")


def test_a_trial_given_up_before_it_began_is_asked_for_again_as_often_as_it_may(
    tmp_path, digits_root
):
    sweep = load(tmp_path, digits_root, {"model.hidden_size": [4, 8]}, epochs=1)
    ledger = Ledger(tmp_path)
    book = Book(sweep, ledger, Watch(), no_run)
    again = Again(book, most=1)
    bridge = searcher(book, open_search(sweep, [], []), again)
    label = bridge.suggest("a")["order"]["label"]
    other = bridge.suggest("b")["order"]["label"]
    assert bridge.suggest("c") is None  # nothing new, but those two may come again
    bridge.on_trial_complete("a", error=True)
    assert bridge.suggest("d")["order"]["label"] == label
    assert ledger.entries[label].retries == 1
    bridge.on_trial_complete("d", error=True)
    assert again.labels == []
    bridge.on_trial_complete("b", error=True)
    assert again.labels == [other]
    assert bridge.suggest("e")["order"]["label"] == other
    bridge.on_trial_complete("e", error=True)
    assert bridge.suggest("f") == bridge.FINISHED
