"""`raypixel sweep`: a Ray Tune sweep around the same training function as `raypixel train`.

A trial runs its training inside the Tune actor, and actors are reused: a trial then costs about a second of overhead
instead of the dozen that a Ray Train job of its own takes to start.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from raypixel.data import Manifest, decide_residence, describe_stream
from raypixel.experiment import ExperimentConfig
from raypixel.runs import Run, carrying, claim
from raypixel.runs.tracking import Publication, Publisher
from raypixel.storage import Location, absolute
from raypixel.sweeps.publishing import BEST, SWEEP_FILE, record_of_sweep
from raypixel.sweeps.ranking import RankedConfiguration, rank
from raypixel.sweeps.search import open_search
from raypixel.sweeps.sweep_folder import (
    drop_unbegun,
    known_trials,
    note_data,
    now,
    open_ledger,
)
from raypixel.sweeps.trial_states import TrialResult, TrialStates, TrialWatch
from raypixel.sweeps.trials import Sweep, Trial
from raypixel.sweeps.tuning import tune_trials
from raypixel.train import ray_cluster, staging

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
    publisher: Callable[[], Publisher],
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
        publisher: Returns what publishes the sweep, and each trial below it; called when Ray runs, so that the
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
        with ray_cluster.cluster(address):
            published = publisher()
            parent = published.follow_sweep(lambda: record_of_sweep(ledger))

            def begin(trial: Trial, config: ExperimentConfig, run: Run, run_id: str) -> None:
                run.begin(config, manifest, resume=True, run_id=run_id)
                published.follow(run, name=trial.label, parent=parent)

            recorded = ledger.facts.get("data", {}).get("backend")
            data = decide_residence(sweep.trials[0].config.data, manifest, recorded=recorded)
            states = TrialStates(sweep, ledger, watch, begin, data)
            states.restore(known)
            with _ended(published, parent):
                is_complete = _run(sweep, states, manifest, warn)
                result = _rank(sweep, states, is_complete=is_complete)
                ledger.facts |= _best_of(result) | {"finished": now()}
                ledger.write()
                if not is_complete:
                    published.finish(parent, "killed")
    return result


@contextmanager
def _ended(publisher: Publisher, parent: Publication) -> Iterator[None]:
    """Publish how the sweep ended."""
    try:
        yield
    except BaseException as error:
        publisher.finish(parent, "failed" if isinstance(error, Exception) else "killed")
        raise
    if parent.status is None:
        publisher.finish(parent, "done")


def _run(
    sweep: Sweep,
    states: TrialStates,
    manifest: Manifest,
    warn: Callable[[str], None],
) -> bool:
    metric, data = sweep.config.metric.name, states.data
    results, trials = states.results, states.trials
    ended = [(result.trial, result.entry.value(metric)) for result in results.values()]
    begun = [trial for label, trial in trials.items() if label not in results]
    search = open_search(sweep, ended, begun)
    if data.backend == "stream":
        warn(describe_stream(data, manifest))
    staged = staging.stage(data, manifest, SPLITS)
    note_data(states.ledger, staging.open_staged(staged, data, manifest), data, manifest)
    states.ledger.write()
    try:
        return tune_trials(states, search, manifest, staged, warn=warn)
    finally:
        states.close()


def _rank(sweep: Sweep, states: TrialStates, *, is_complete: bool) -> SweepResult:
    results, facts = states.results, states.ledger.facts
    ranked = rank([result.entry for result in results.values()], sweep.config.metric.name)
    return SweepResult(
        ranked,
        [results[entry.name] for configuration in ranked for entry in configuration.entries],
        facts["baselines"],
        facts["data"]["num_images"]["test"],
        is_complete,
    )


def _best_of(result: SweepResult) -> dict[str, str]:
    """Return the name and the folder of the best trial, for trials.json and MLflow."""
    if result.best is None:
        return {}
    found = (result.best.trial.label, str(result.best.run.home))
    return dict(zip(BEST, found, strict=True))
