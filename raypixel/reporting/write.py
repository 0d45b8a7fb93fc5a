"""Write a report: pictures, a Markdown file that shows them, and an HTML file that holds them."""

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raypixel import storage
from raypixel.errors import RaypixelError
from raypixel.model import draw_picture
from raypixel.reporting.contents import (
    Table,
    curves,
    failures,
    importance,
    ranked,
    ranking,
    summary,
    two_way,
)
from raypixel.reporting.plots import curves_png, importance_png
from raypixel.runs import Run
from raypixel.runs.remote import fetch_sweep
from raypixel.storage import Location, Remote
from raypixel.sweeps.ledger import Ledger, read_ledger

MAX_SAMPLED = 3


@dataclass
class Report:
    """What the templates show.

    Attributes:
        title: Name of the sweep.
        description: What it shows.
        lines: Pairs of a name and a text.
        tables: In the order of the page.
        pictures: Caption, file name and PNG.
        commands: To repeat, resume and report.
        notes: Lines about what is left out.
    """

    title: str
    description: str
    lines: list[tuple[str, str]]
    tables: list[Table]
    commands: list[str]
    pictures: list[tuple[str, str, bytes]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def write_report(
    place: Location, out: Path | None = None, *, say: Callable[[str], None] | None = None
) -> tuple[Location, Location]:
    """Write report.md, its pictures and report.html of a sweep, which may still be running.

    Args:
        place: The sweep's folder.
        out: Folder of the report, made if need be; None for report/ in the sweep's folder.
        say: Shows a line about long work.

    Returns:
        The Markdown file and the HTML file.

    Raises:
        StorageError: Storage does not answer or refuses.
        RaypixelError: The folder is no sweep's, or its file is damaged, or the report cannot be written.
    """
    if isinstance(place, Path) and place.exists() and not place.is_dir():
        raise RaypixelError(f"{place}: must be a sweep's folder, got a file")
    folder = fetch_sweep(place)
    with storage.named(folder, place):
        ledger = read_ledger(folder)
    ledger.home = place
    if not ledger.entries:
        raise RaypixelError(f"{place}: must have at least one trial, none has started")
    report = _gather(ledger)
    where: Location = out or place / "report"
    out = out or folder / "report"
    try:
        out.mkdir(parents=True, exist_ok=True)
        _add_samples(report, ledger, out, say)
        for _, name, png in report.pictures:
            (out / name).write_bytes(png)
        markdown, html = out / "report.md", out / "report.html"
        markdown.write_text(_render("report.md.j2", report), encoding="utf-8")
        html.write_text(_render("report.html.j2", report), encoding="utf-8")
    except OSError as error:
        raise RaypixelError(f"{out}: cannot be written: {error.strerror}") from None
    if isinstance(where, Remote):
        for path in sorted(out.iterdir()):
            storage.upload(path, where / path.name)
    return where / markdown.name, where / html.name


def _gather(ledger: Ledger) -> Report:
    facts = ledger.facts
    tables = [ranking(ledger), two_way(ledger), failures(ledger)]
    command = facts.get("command") or f"raypixel sweep {ledger.home / 'sweep.yaml'}"
    report = Report(
        title=str(facts["name"]),
        description=str(facts["description"]),
        lines=summary(ledger),
        tables=[table for table in tables if table],
        commands=[command, f"raypixel report {ledger.home}"],
    )
    order = [entry.name for group in ranked(ledger) for entry in group.entries]
    lines, shares = curves(ledger), importance(ledger)
    if lines:
        picture = curves_png(lines, facts["metric"], order)
        report.pictures.append(("Learning curves", "curves.png", picture))
    if shares:
        report.pictures.append(
            ("Which parameter matters", "importance.png", importance_png(shares))
        )
    return report


def _add_samples(
    report: Report, ledger: Ledger, out: Path, say: Callable[[str], None] | None
) -> None:
    best = [group.best for group in ranked(ledger) if group.val][:MAX_SAMPLED]
    for rank, entry in enumerate(best, start=1):
        name = f"samples-{rank}.png"
        if say:
            say(f"samples of {entry.name}")
        try:
            problem = draw_picture(Run.at(ledger.home / entry.run_folder).best(), out / name)
        except RaypixelError as error:
            problem = str(error)
        if problem:
            report.notes.append(f"{entry.name}: {problem}")
        else:
            png = (out / name).read_bytes()
            report.pictures.append((f"Samples, rank {rank}: {entry.name}", name, png))


def _render(template: str, report: Report) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("raypixel.reporting", "templates"),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["base64"] = lambda png: base64.b64encode(png).decode()
    environment.filters["cell"] = _cell
    return environment.get_template(template).render(report=report)


def _cell(text: Any) -> str:
    """Keep a text in its cell of a Markdown table."""
    return str(text).replace("|", "\\|").replace("\n", " ")
