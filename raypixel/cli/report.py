"""`raypixel report`: a sweep as a page."""

from pathlib import Path

import click

from raypixel.cli.progress import say
from raypixel.cli.runs import RUNS_OPTION, shown_path
from raypixel.storage import Location, existing


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
