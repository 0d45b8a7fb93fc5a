"""`raypixel train` and `publish`: a run made and watched, and put into MLflow by hand; and what `sweep` shares with them."""

import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raypixel.cli.common_options import (
    ADDRESS_OPTION,
    RUNS_OPTION,
    SET_OPTION,
    LocationType,
    RunName,
    make_folder,
)
from raypixel.cli.progress import SECONDS_BETWEEN_LINES, bar, say, training_bar
from raypixel.storage import Location, Remote, existing
from raypixel.units import duration

if TYPE_CHECKING:
    from raypixel.runs import Event


@click.command()
@click.argument("recipe", metavar="RECIPE_OR_PATH", default="digits_pixelcnn")
@SET_OPTION
@click.option(
    "--run",
    "run_name",
    metavar="NAME",
    type=RunName(),
    help="Name of the run's folder; default the recipe's.",
)
@RUNS_OPTION
@click.option("--resume", is_flag=True, help="Continue this run from its newest checkpoint.")
@click.option(
    "--init",
    metavar="CHECKPOINT",
    type=LocationType(must_be_folder=False),
    help="Begin with the weights of a checkpoint, run or zoo:NAME, and a new optimizer.",
)
@ADDRESS_OPTION
def train(
    recipe: str,
    assignments: tuple[str, ...],
    run_name: str | None,
    runs: Location,
    resume: bool,
    init: Location | None,
    address: str | None,
) -> None:
    """Train one experiment: a packaged recipe (`raypixel recipes`) or a YAML file.

    Checkpoints, metrics and a picture of samples appear in RUNS/NAME; MLflow records the run. Interrupt it at any time
    and run the same command with --resume.

    \b
    Examples:
      raypixel train
      raypixel train mnist_pixelcnn --set training.num_epochs=1
      raypixel train digits_pixelcnn --set scaling.num_workers=2 --run two-workers
      raypixel train digits_pixelcnn --set scaling.num_workers=0     (without Ray)
      raypixel train digits_pixelcnn --init runs/digits_pixelcnn --run more --set training.learning_rate=1e-4
    """
    from raypixel.config import parse_overrides
    from raypixel.data import ensure_prepared
    from raypixel.experiment import load_experiment
    from raypixel.runs import Run, find_checkpoint
    from raypixel.train.start import train_and_publish

    begun = None if init is None else find_checkpoint(init)
    config = load_experiment(recipe, parse_overrides(assignments))
    make_folder(runs)
    folder = runs / (run_name or config.name)
    with bar(f"preparing {config.data.name}", unit="images") as progress:
        manifest = ensure_prepared(config.data, progress=progress)
    with _training_progress(folder.name) as show:
        result = train_and_publish(
            config,
            manifest,
            Run.at(folder),
            resume=resume,
            on_event=show,
            warn=say,
            address=address,
            init=begun,
        )
    say_where(folder, folder, result.samples_problem, result.tracking)
    click.echo(f"val/bits_per_dim {result.best.state['best']:.4f}")


@click.command()
@click.argument("run")
@RUNS_OPTION
def publish(run: str, runs: Location) -> None:
    """Publish a RUN or a sweep to MLflow: its folder, or the name of one below --runs.

    Trainings and sweeps publish themselves. This is for what MLflow did not take then, because its server was away, and for
    another store (MLFLOW_TRACKING_URI). What it has already stays as it is, so publishing twice changes nothing.

    \b
    Examples:
      raypixel publish digits_pixelcnn
      MLFLOW_TRACKING_URI=http://127.0.0.1:5000 raypixel publish runs/quickstart
    """
    from raypixel.runs.tracking import Publisher
    from raypixel.sweeps.publishing import publish as publish_folder

    with Publisher(warn=say) as publisher:
        count = publish_folder(existing(run, runs), publisher)
        if not publisher.close():
            sys.exit(1)
        say(f"MLflow      {count} {'run' if count == 1 else 'runs'}: {publisher.describe()}")


def say_where(folder: Location, run_folder: Location, problem: str | None, tracking: str) -> None:
    """Tell where the picture, the checkpoint and the MLflow store are, and what opens each."""
    picture = folder / "samples.png"
    viewer = "open" if sys.platform == "darwin" else "xdg-open"
    run = shown_path(run_folder)
    opening = (
        "" if isinstance(folder, Remote) else f", open it with `{viewer} {shown_path(picture)}`"
    )
    say(f"samples     {problem or shown_path(picture) + opening}")
    say(f"checkpoint  {run}/checkpoints/best, use it with")
    say(f"            `{program()} evaluate {run}` and `{program()} sample {run} -n 64`")
    say(f"MLflow      {tracking}")


def shown_path(path: Location) -> str:
    """Return a path as the user would type it."""
    if isinstance(path, Remote):
        return shlex.quote(str(path))
    path, here = path.absolute(), Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def program() -> str:
    """Return what calls this program: its name where the shell finds it, else its path."""
    program = Path(sys.argv[0])
    found = shutil.which("raypixel")
    return (
        "raypixel" if found and Path(found).resolve() == program.resolve() else shown_path(program)
    )


@contextmanager
def _training_progress(name: str) -> Iterator[Callable[["Event"], None]]:
    """Show a training: a bar in a terminal; a line for each epoch and every few seconds elsewhere."""
    if sys.stderr.isatty():
        with training_bar() as shown:
            task = shown.add_task(name, total=None, note="starting")
            yield lambda event: _update_bar(shown, task, event)
    else:
        shown_at = time.monotonic()

        def show(event: "Event") -> None:
            nonlocal shown_at
            is_due = time.monotonic() - shown_at >= SECONDS_BETWEEN_LINES
            if event.kind != "step" or is_due:
                shown_at = time.monotonic()
                say(f"{name}: {_news(event)}")

        yield show


def _update_bar(shown: Any, task: Any, event: "Event") -> None:
    if event.kind == "warning":
        shown.console.print(event.text, markup=False, soft_wrap=True)
        return
    shown.update(task, completed=event.step, total=event.total_steps, note=_note(event))
    if event.kind == "epoch":
        shown.console.print(_news(event), markup=False, soft_wrap=True)


def _note(event: "Event") -> str:
    metrics = event.metrics
    if event.kind == "epoch":
        return f"val {metrics['val/bits_per_dim']:.4f} bits/dim"
    return (
        f"{metrics['train/batch_bits_per_dim']:.4f} bits/dim, "
        f"{metrics['train/images_per_second']:.0f} images/s"
    )


def _news(event: "Event") -> str:
    metrics = event.metrics
    if event.kind == "warning":
        return event.text
    where = f"step {event.step:,} of {event.total_steps:,}"
    if event.kind == "step":
        left = event.seconds / max(1, event.step) * (event.total_steps - event.step)
        return f"{where}, {_note(event)}, {duration(left)} left"
    return (
        f"epoch {event.epoch} ({where}, {duration(event.seconds)}): "
        f"train {metrics['train/bits_per_dim']:.4f}, val {metrics['val/bits_per_dim']:.4f} bits/dim "
        f"({metrics['val/nll_nats']:.2f} nats, {metrics['val/num_images']:.0f} images)"
    )
