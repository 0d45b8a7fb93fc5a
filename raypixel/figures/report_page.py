"""Write a report: pictures, a Markdown file that shows them, and an HTML file that holds them."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raypixel import storage
from raypixel.errors import RaypixelError
from raypixel.figures.canvas import empty_figure
from raypixel.figures.tables import (
    Table,
    curves,
    failures,
    importance,
    ranked,
    ranking,
    summary,
    two_way,
)
from raypixel.model import draw_picture
from raypixel.runs import Run
from raypixel.runs.remote import fetch_sweep
from raypixel.storage import Location
from raypixel.sweeps.ledger import Ledger, read_ledger

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_SAMPLED = 3
MAX_IN_LEGEND = 12
DOTS_PER_INCH = 120


@dataclass
class ReportPage:
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
    folder = fetch_sweep(place)
    if folder.exists() and not folder.is_dir():
        raise RaypixelError(f"{place}: must be a sweep's folder, got a file")
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
    if where != out:  # the sweep is in storage, and this its working copy
        for path in sorted(out.iterdir()):
            storage.write_bytes(where / path.name, path.read_bytes())
    return where / markdown.name, where / html.name


def _gather(ledger: Ledger) -> ReportPage:
    facts = ledger.facts
    tables = [ranking(ledger), two_way(ledger), failures(ledger)]
    command = facts.get("command") or f"raypixel sweep {ledger.home / 'sweep.yaml'}"
    report = ReportPage(
        title=str(facts["name"]),
        description=str(facts["description"]),
        lines=summary(ledger),
        tables=[table for table in tables if table],
        commands=[command, f"raypixel report {ledger.home}"],
    )
    order = [entry.name for group in ranked(ledger) for entry in group.entries]
    lines, shares = curves(ledger), importance(ledger)
    if lines:
        picture = _curves_png(lines, facts["metric"], order)
        report.pictures.append(("Learning curves", "curves.png", picture))
    if shares:
        report.pictures.append(
            ("Which parameter matters", "importance.png", _importance_png(shares))
        )
    return report


def _add_samples(
    report: ReportPage, ledger: Ledger, out: Path, say: Callable[[str], None] | None
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


def _render(template: str, report: ReportPage) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("raypixel.figures", "templates"),
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


def _curves_png(
    curves: Mapping[str, Sequence[tuple[float, float]]], metric: str, order: Sequence[str]
) -> bytes:
    """Draw a metric by training step, a line for each trial; the best of `order` are named and in colour."""
    figure, axes = _axes()
    named = [name for name in order if name in curves][:MAX_IN_LEGEND]
    for name in [n for n in curves if n not in named] + named:
        xs, ys = zip(*curves[name], strict=True)
        style: dict[str, Any] = {"label": name} if name in named else {"color": "0.8"}
        axes.plot(xs, ys, marker="o", markersize=3, linewidth=1.3, **style)
    axes.set_xlabel("step")
    axes.set_ylabel(metric)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _png(figure)


def _importance_png(shares: Mapping[str, float]) -> bytes:
    """Draw the share of the variance that each parameter explains alone."""
    figure, axes = _axes(height=0.8 + 0.4 * len(shares))
    names = list(shares)[::-1]
    axes.barh(names, [shares[name] for name in names], color="#4878a8", height=0.6)
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of the variance between trials, each parameter alone (eta squared)")
    return _png(figure)


def _axes(height: float = 3.6) -> "tuple[Figure, Axes]":
    figure = empty_figure(7.2, height, is_laid_out=False)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DOTS_PER_INCH, bbox_inches="tight")
    return buffer.getvalue()
