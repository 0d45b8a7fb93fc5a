"""Tables on stdout and progress on stderr: a live bar in a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

SECONDS_BETWEEN_LINES = 10.0


def console() -> Console:
    """Return the console of stderr."""
    return Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """Print one line for a person, on stderr."""
    click.echo(text, err=True)


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None
) -> None:
    """Print a table on stdout, as wide as it needs to be when nobody looks at it in a terminal."""
    drawn = Table(*columns, title=title, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        drawn.add_row(*row)
    width = None if sys.stdout.isatty() else 240
    Console(width=width, highlight=False, markup=False).print(drawn)


@contextmanager
def bar(label: str, *, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar while a block runs; yields `update(done, total)`."""
    if not sys.stderr.isatty():
        yield _lines(label, unit)
        return
    with training_bar() as progress:
        tasks: list[TaskID] = []

        def update(done: int, total: int) -> None:
            if not tasks:  # no bar for work that was not needed
                tasks.append(progress.add_task(label, total=total, note=unit))
            progress.update(tasks[0], completed=done, total=total)

        yield update


def training_bar() -> Progress:
    """Return a bar with a note field, on stderr."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console(),
        transient=False,
    )


def counter(update: Callable[[int, int], None], total: int) -> Callable[[int], None]:
    """Turn `update(done, total)` into a function that is told of increments."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        update(done, total)

    return advance


def _lines(label: str, unit: str) -> Callable[[int, int], None]:
    shown_at = time.monotonic()

    def update(done: int, total: int) -> None:
        nonlocal shown_at
        if time.monotonic() - shown_at >= SECONDS_BETWEEN_LINES:
            shown_at = time.monotonic()
            say(f"{label}: {done:,} of {total:,} {unit}")

    return update
