"""`raypixel sweep` and `report`: many trainings, watched and ranked, and what came of them as a page."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raypixel.cli.common_options import ADDRESS_OPTION, PATH, RUNS_OPTION, SET_OPTION, make_folder
from raypixel.cli.progress import bar, say, table
from raypixel.cli.runs import program, say_where, shown_path
from raypixel.cli.sweep_watch import UNITS, SweepWatch
from raypixel.storage import Location, existing, exists
from raypixel.units import duration

if TYPE_CHECKING:
    from raypixel.sweeps import Sweep
    from raypixel.sweeps.sweep_run import SweepResult


@click.command()
@click.argument("file", type=PATH)
@SET_OPTION
@RUNS_OPTION
@click.option(
    "--resume", is_flag=True, help="Continue the newest sweep of this name; ended trials stay."
)
@click.option(
    "--dry-run", is_flag=True, help="List the trials, their parameters and an estimate of the cost."
)
@click.option("--smoke", is_flag=True, help="Shrink every trial to two steps on a few images.")
@ADDRESS_OPTION
def sweep(
    file: Path,
    assignments: tuple[str, ...],
    runs: Location,
    resume: bool,
    dry_run: bool,
    smoke: bool,
    address: str | None,
) -> None:
    """Run every trial of a sweep FILE with Ray Tune and rank them.

    The trials are ranked by their validation likelihood; the table shows the test likelihood beside published values, if the
    file has any, and two baselines on the same images. --set changes the base experiment of all trials. Interrupt it at
    any time and run the same command with --resume. docs/sweeps.md describes the file.

    \b
    Examples:
      raypixel sweep sweeps/quickstart.yaml --set training.num_epochs=5
      raypixel sweep sweeps/diag_layers.yaml --dry-run
      raypixel sweep sweeps/diag_layers.yaml --resume
    """
    from raypixel.config import parse_overrides
    from raypixel.data import ensure_prepared
    from raypixel.runs.tracking import opening_publisher
    from raypixel.sweeps import load_sweep
    from raypixel.sweeps.sweep_run import run_sweep

    loaded = load_sweep(file, parse_overrides(assignments), is_smoke=smoke)
    for warning in loaded.warnings:
        say(warning)
    data = loaded.trials[0].config.data
    if dry_run:
        _list_trials(loaded)
        return
    make_folder(runs)
    with bar(f"preparing {data.name}", unit="images") as progress:
        manifest = ensure_prepared(data, progress=progress)
    if not loaded.num_parameters:  # images of the user's own, prepared only now
        loaded = load_sweep(file, parse_overrides(assignments), is_smoke=smoke)
    folder, is_resumed = _choose_folder(runs / loaded.config.name, resume=resume)
    num_ended = _num_ended(folder) if is_resumed else 0
    say(f"{loaded.config.name}: {loaded.num_trials} trials on {data.name}, into {folder}")
    with (
        opening_publisher(say) as publisher,
        SweepWatch(loaded.num_trials, loaded.config.metric.name, num_ended=num_ended) as watch,
    ):
        result = run_sweep(
            loaded,
            manifest,
            folder,
            watch=watch,
            publisher=publisher,
            warn=watch.say,
            command=shlex.join([program(), *sys.argv[1:]]),
            address=address,
            is_resumed=is_resumed,
        )
        where = publisher().describe()
    _conclude(loaded, result, folder, where)


def _conclude(loaded: "Sweep", result: "SweepResult", place: Location, tracking: str) -> None:
    """Print the table, draw samples of the best trial, and leave with 1 where not all is well."""
    from raypixel.errors import RaypixelError
    from raypixel.model import draw_picture
    from raypixel.runs import Run

    name = loaded.config.name
    if result.configurations:
        _print_ranking(loaded, result)
    best = result.best
    if best is not None:
        folder = Run.at(place)
        problem = draw_picture(best.best, folder.folder / "samples.png")
        folder.put("samples.png")
        say_where(place, best.run.home, problem, tracking)
    if not result.is_complete:  # Ray Tune takes Ctrl-C and returns
        raise KeyboardInterrupt
    if best is None:
        raise RaypixelError(f"{name}: no trial succeeded")
    if any(trial.error for trial in result.trials):
        sys.exit(1)


def _list_trials(loaded: "Sweep") -> None:
    """Print what would run, in what order, and what it would cost on this machine."""
    from raypixel.sweeps.cost import estimate_costs, listed_trials

    costs = estimate_costs(loaded)
    rows = []
    for number, trial in enumerate(listed_trials(loaded), start=1):
        size, seconds = loaded.num_parameters.get(trial.label), costs.get(trial.label)
        rows.append(
            [
                str(number),
                trial.label,
                "" if size is None else f"{size:,}",
                str(trial.config.training.num_epochs),
                "" if seconds is None else duration(seconds),
            ]
        )
    title = f"{loaded.config.name}, {loaded.num_trials} trials"
    if loaded.config.method == "bayes":
        title += " (bayes chooses them as it goes: these are examples)"
    table(["", "trial", "parameters", "epochs", "about"], rows, title=title)
    if costs:
        mean = sum(costs.values()) / len(costs)
        hours = mean * loaded.num_trials / 3600
        say(
            f"about {hours:.2g} hours of one CPU core like this one in all, without validation and early stopping"
        )


def _print_ranking(loaded: "Sweep", result: "SweepResult") -> None:
    from raypixel.sweeps.ranking import DIGITS

    metric, block = loaded.config.metric.name, loaded.config.raypixel
    digits = DIGITS[metric]
    columns = ["rank", "trial", "val", "test", "parameters", "time"]
    columns += ["published"] if block.reference else []
    rows = []
    for rank, configuration in enumerate(result.configurations, start=1):
        entry, val, test = configuration.best, configuration.val, configuration.test
        row = [
            str(rank) if val else "-",
            configuration.label,
            val.describe(digits) if val else "failed",
            configuration.error or (test.describe(digits) if test else entry.status),
            "" if entry.num_parameters is None else f"{entry.num_parameters:,}",
            "" if entry.seconds is None else duration(entry.seconds),
        ]
        rows.append([*row, "" if entry.reference is None else f"{entry.reference:g}"])
    if metric == "val/bits_per_dim":
        rows += [
            ["", f"baseline: {name}", "", f"{value:.{digits}f}", "", "", ""]
            for name, value in result.baselines.items()
        ]
    data = loaded.trials[0].config.data.name
    seeds = f", mean of {len(loaded.seeds)} seeds" if loaded.seeds else ""
    title = f"{data}, {UNITS[metric]}, test split of {result.num_test_images:,} images{seeds}"
    table(columns, [row[: len(columns)] for row in rows], title=title)
    if block.reference:
        say(f"published   {block.reference.unit}: {block.reference.source}")


def _num_ended(folder: Location) -> int:
    """Count the trials that a sweep to be resumed need not run again."""
    from raypixel.runs.remote import fetch_sweep
    from raypixel.sweeps.ledger import FILE_NAME, read_ledger

    copy = fetch_sweep(folder)
    if not (copy / FILE_NAME).exists():
        return 0
    return sum(entry.is_over for entry in read_ledger(copy).entries.values())


def _choose_folder(folder: Location, *, resume: bool) -> tuple[Location, bool]:
    """Return the newest folder of the sweep to resume, or the first that is free: folder, folder-2, folder-3, ..."""
    candidate, number = folder, 1
    newest: Location | None = None
    while exists(candidate):
        newest, number = candidate, number + 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    if not resume:
        return candidate, False
    if newest is None:
        say(f"{shown_path(folder)}: nothing to resume, starting anew")
        return candidate, False
    return newest, True


@click.command()
@click.argument("sweep")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the report.  [default: report/ in the sweep's folder]",
)
@RUNS_OPTION
def report(sweep: str, out: Path | None, runs: Location) -> None:
    """Write the report of a SWEEP: a folder that `raypixel sweep` wrote, or the name of one below --runs.

    report.html holds everything, its pictures among it; report.md is the same as Markdown beside its pictures. The
    sweep may still be running.

    \b
    Examples:
      raypixel report quickstart
      raypixel report runs/diag_layers --out report
    """
    from raypixel.figures.report_page import write_report

    markdown, html = write_report(existing(sweep, runs), out, say=say)
    say(f"report {shown_path(html)} and {shown_path(markdown)}")
