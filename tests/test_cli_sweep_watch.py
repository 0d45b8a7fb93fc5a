"""The lines of a sweep that runs: one for each ended trial, in the unit of the sweep's metric."""

from pathlib import Path

import pytest

from raypixel.cli.sweep_watch import SweepWatch
from raypixel.experiment import load_experiment
from raypixel.runs import Run
from raypixel.sweeps import Trial
from raypixel.sweeps.ledger import TrialEntry
from raypixel.sweeps.trial_states import TrialResult

TEST = {"bits_per_dim": 1.25, "nll_nats": 55.4518}


def ended(**known) -> TrialResult:
    trial = Trial("seed=1", "seed=1", {}, load_experiment("digits_pixelcnn"))
    entry = TrialEntry("seed=1", "seed=1", {}, 1, "runs/1", seconds=61.0, epoch=3, **known)
    return TrialResult(trial, Run.at(Path("runs/1")), entry)


def test_a_resumed_sweep_counts_the_trials_that_ended_before(capsys):
    SweepWatch(4, "val/bits_per_dim", num_ended=2).finish(ended(status="failed", error="x"))
    assert capsys.readouterr().err == "[3/4] seed=1: failed: x\n"


@pytest.mark.parametrize(
    ("metric", "done", "stopped"),
    [
        ("val/bits_per_dim", "val 1.2000, test 1.2500 bits/dim, 1:01", "val 1.2000 bits/dim, 1:01"),
        ("val/nll_nats", "val 53.23, test 55.45 nats, 1:01", "val 53.23 nats, 1:01"),
    ],
)
def test_an_ended_trial_is_told_in_the_unit_of_the_metric(capsys, metric, done, stopped):
    watch = SweepWatch(4, metric)
    best = {"val_bits_per_dim": 1.2, "val_nll_nats": 53.2337}
    watch.finish(ended(status="done", test=TEST, **best))
    watch.finish(ended(status="stopped", stopped_by="median", **best))
    watch.finish(ended(status="stopped", stopped_by="time_budget_s"))
    watch.finish(ended(status="failed", error="loss must be finite, got nan"))
    assert capsys.readouterr().err.splitlines() == [
        f"[1/4] seed=1: {done}",
        f"[2/4] seed=1: stopped by median after 3 epochs, {stopped}",
        "[3/4] seed=1: stopped by time_budget_s after 3 epochs, no epoch yet, 1:01",
        "[4/4] seed=1: failed: loss must be finite, got nan",
    ]
