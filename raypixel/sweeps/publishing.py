"""`raypixel publish`: tell MLflow of a run or a sweep what it was not told, for example while its server was away."""

from raypixel.config import load_yaml
from raypixel.errors import CheckpointError
from raypixel.runs import Event, Run
from raypixel.runs.origin import origin_of_code
from raypixel.runs.remote import fetch_sweep
from raypixel.runs.tracking import Publication, Publisher, Record
from raypixel.storage import Location
from raypixel.sweeps.ledger import FILE_NAME, Ledger, read_ledger

SWEEP_FILE = "sweep.yaml"
BEST = ("best_trial", "best_folder")
"""Names of the facts about the best trial, in trials.json and, behind `raypixel.`, in MLflow's tags."""


def record_of_sweep(ledger: Ledger) -> Record:
    """Return what MLflow is told of a sweep: its file, and the best trial once there is one."""
    best = {f"raypixel.{key}": str(ledger.facts[key]) for key in BEST if key in ledger.facts}
    code = ledger.facts.get("code") or origin_of_code()
    return Record(
        ledger.home.name,
        str(ledger.facts["id"]),
        load_yaml(ledger.folder / SWEEP_FILE),
        {"raypixel.kind": "sweep", "raypixel.folder": str(ledger.home), **code, **best},
        files=((ledger.folder / SWEEP_FILE, None),),
    )


def publish(place: Location, publisher: Publisher) -> int:
    """Have a run, or a sweep and its trials, published; the publisher's `close` waits for it.

    Args:
        place: The folder; what trains may go on meanwhile.
        publisher: Of the store.

    Returns:
        How many runs of MLflow that is.

    Raises:
        CheckpointError: It is neither a run's folder nor a sweep's.
    """
    folder = fetch_sweep(place)
    if not (folder / FILE_NAME).exists():
        run = Run.at(place).fetch()
        if not (run.folder / "experiment.yaml").exists():
            raise CheckpointError(f"{place}: must be a run's folder or a sweep's, got neither")
        _follow(run, publisher)
        return 1
    ledger = read_ledger(folder)
    if not {"id", "finished"} <= ledger.facts.keys():
        raise CheckpointError(f"{place}: is damaged, {FILE_NAME} lacks what the sweep is")
    ledger.home = Run.at(place).home
    parent = publisher.follow_sweep(lambda: record_of_sweep(ledger))
    for entry in ledger.entries.values():
        run = Run.at(ledger.home / entry.run_folder).fetch()
        if (run.folder / "run.json").exists():
            _follow(run, publisher, name=entry.name, parent=parent)
    is_whole = all(entry.status != "running" for entry in ledger.entries.values())
    publisher.finish(parent, "done" if ledger.facts["finished"] and is_whole else "killed")
    return 1 + len(ledger.entries)


def _follow(
    run: Run, publisher: Publisher, *, name: str | None = None, parent: Publication | None = None
) -> None:
    """Publish a run; one whose process was killed has not said that it ended."""
    run.fetch_events()
    events = run.events()
    if not events or events[-1].kind != "end":
        try:
            with run.claim():
                run.end(Event("end", status="killed"))
        except CheckpointError:  # it is being trained
            pass
    publisher.follow(run, name=name, parent=parent)
