"""The ranking of configurations: by the mean over seeds, those that failed last."""

import pytest

from raypixel.sweeps.ledger import TrialEntry
from raypixel.sweeps.ranking import rank

BITS, NATS = "val/bits_per_dim", "val/nll_nats"


def trial(configuration: str, seed: int, bits: float | None, **more) -> TrialEntry:
    known = {"val_bits_per_dim": bits, "val_nll_nats": None if bits is None else -bits}
    name = f"{configuration} seed={seed}"
    return TrialEntry(name, configuration, {}, seed, f"trials/{name}", **known, **more)


def test_configurations_are_ranked_by_the_mean_over_their_seeds():
    entries = [trial("a", 0, 1.0), trial("b", 0, 1.5), trial("a", 1, 3.0), trial("b", 1, 2.0)]
    first, second = rank(entries, BITS)
    assert (first.label, second.label) == ("b", "a")
    assert first.val.mean == 1.75
    assert first.val.deviation == pytest.approx(0.5 / 2**0.5)
    assert first.val.describe(2) == "1.75 ± 0.35"
    assert second.best is entries[0]
    assert [each.label for each in rank(entries, NATS)] == ["a", "b"]


def test_a_configuration_without_a_value_is_last_and_a_failed_trial_has_none():
    failed = trial("a", 0, 0.5, status="failed", error="ValueError: no")
    done = trial("b", 0, 2.0, status="done", test={"bits_per_dim": 2.1})
    stopped = trial("b", 1, 4.0, status="stopped", stopped_by="median")
    first, last = rank([failed, trial("c", 0, None), done, stopped], BITS)[:2]
    assert (first.val.count, first.test.describe(1), first.error) == (2, "2.1", None)
    assert (last.label, last.val, last.test, last.error) == ("a", None, None, "ValueError: no")
