"""`raypixel sweep`: a Ray Tune sweep around the same training function as `raypixel train`.

A trial runs its training inside the Tune actor, and actors are reused: a trial then costs about a second of overhead
instead of the dozen that a Ray Train job of its own takes to start.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from raypixel.data import Manifest, describe_stream
from raypixel.jobs import datasets, record, session
from raypixel.jobs.folder import begin_run, claim
from raypixel.jobs.ledger import Ledger
from raypixel.jobs.mirror import carrying
from raypixel.jobs.ranking import RankedConfiguration, rank
from raypixel.jobs.sweep_folder import (
    SWEEP_FILE,
    drop_unbegun,
    known_trials,
    note_data,
    now,
    open_ledger,
    settled_data,
)
from raypixel.jobs.tracking import TrackedRun, Tracker
from raypixel.jobs.trials import Book, TrialResult, TrialWatch
from raypixel.jobs.tuning import tune_trials
from raypixel.storage import Location, absolute
from raypixel.sweeps import Sweep, Trial, open_search

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class SweepResult:
    """All configurations, the best first, the failed last, and baselines on the same test images.

    Attributes:
        configurations: Ranked by the mean of the sweep's metric over their seeds.
        trials: All trials that ended, those of the best configuration first.
        baselines: Test bits/dim by name.
        num_test_images: Images of the test split.
        is_complete: Whether every trial ended.
    """

    configurations: list[RankedConfiguration]
    trials: list[TrialResult]
    baselines: Mapping[str, float]
    num_test_images: int
    is_complete: bool

    @property
    def best(self) -> TrialResult | None:
        """The best trial of the best configuration, None if no trial succeeded."""
        names = [each.best.name for each in self.configurations if each.val]
        return next((trial for trial in self.trials if trial.entry.name in names[:1]), None)


def run_sweep(
    sweep: Sweep,
    manifest: Manifest,
    place: Location,
    *,
    watch: TrialWatch,
    tracker: Callable[[], Tracker],
    warn: Callable[[str], None],
    command: str = "",
    address: str | None = None,
    is_resumed: bool = False,
) -> SweepResult:
    """Run every trial and rank them.

    Args:
        sweep: The sweep, as `load_sweep` reads it.
        manifest: The prepared data set of all trials.
        place: Folder of what the sweep produces, the trials' run folders among it.
        watch: Told of every trial's progress.
        tracker: Returns what gets a run for the sweep, and one below it for each trial; called when Ray runs, so that the
            store can be opened meanwhile.
        warn: Shows a line.
        command: What started the sweep, for its report.
        address: A Ray cluster to join.
        is_resumed: Continue what is in the folder.

    Raises:
        RaypixelError: The cluster cannot hold a trial, or what is to be resumed is another sweep.
    """
    place = absolute(place)
    with ExitStack() as stack:
        stack.enter_context(claim(place))
        stack.callback(drop_unbegun, place)
        ledger = open_ledger(sweep, place, is_resumed=is_resumed)
        files = (SWEEP_FILE, "trials.json")
        ledger.written = stack.enter_context(carrying(ledger.folder, place, warn, files))
        known = known_trials(sweep, ledger)
        ledger.facts |= {"command": command, "finished": None}
        with session.cluster(address):
            tracked = tracker()
            parent = _start_parent(tracked, sweep, ledger)

            def open_trial(trial: Trial, where: Location, key: str) -> TrackedRun:
                begin_run(trial.config, manifest, where, resume=True)
                return record.start_run(
                    tracked,
                    trial.config,
                    manifest,
                    name=trial.label,
                    place=where,
                    run_id=key,
                    parent=parent,
                )

            book = Book(sweep, ledger, watch, open_trial)
            book.restore(known)
            with parent:
                is_complete = _run(sweep, book, manifest, warn)
                result = _rank(sweep, book, is_complete=is_complete)
                _tag_best(parent, result)
                ledger.facts["finished"] = now()
                ledger.write()
    return result


def _run(
    sweep: Sweep,
    book: Book,
    manifest: Manifest,
    warn: Callable[[str], None],
) -> bool:
    metric = sweep.config.metric.name
    results, trials = book.results, book.trials
    ended = [(result.trial, result.entry.value(metric)) for result in results.values()]
    begun = [trial for label, trial in trials.items() if label not in results]
    search = open_search(sweep, ended, begun)
    data = settled_data(book.ledger, sweep.trials[0].config.data, manifest)
    if data.backend == "stream":
        warn(describe_stream(data, manifest))
    staged = datasets.stage(data, manifest, SPLITS)
    note_data(book.ledger, datasets.open_staged(staged, data, manifest), data, manifest)
    book.ledger.write()
    try:
        return tune_trials(book, search, manifest, staged, warn=warn)
    finally:
        book.close()


def _start_parent(tracker: Tracker, sweep: Sweep, ledger: Ledger) -> TrackedRun:
    parent = tracker.start(
        ledger.home.name,
        params=sweep.config.model_dump(mode="json", exclude_unset=True),
        tags={"raypixel.kind": "sweep", "raypixel.folder": str(ledger.home)},
        key=str(ledger.facts["id"]),
    )
    parent.log_artifact(ledger.folder / SWEEP_FILE)
    return parent


def _rank(sweep: Sweep, book: Book, *, is_complete: bool) -> SweepResult:
    results, facts = book.results, book.ledger.facts
    ranked = rank([result.entry for result in results.values()], sweep.config.metric.name)
    return SweepResult(
        ranked,
        [results[entry.name] for configuration in ranked for entry in configuration.entries],
        facts["baselines"],
        facts["data"]["num_images"]["test"],
        is_complete,
    )


def _tag_best(parent: TrackedRun, result: SweepResult) -> None:
    if result.best is not None:
        parent.tag("raypixel.best_trial", result.best.trial.label)
        parent.tag("raypixel.best_folder", str(result.best.place))
    if not result.is_complete:
        parent.finish("KILLED")
