"""`raypixel train` and `raypixel sweep`: long work, watched."""

import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raypixel.cli.progress import SECONDS_BETWEEN_LINES, bar, minutes, say, table, training_bar

if TYPE_CHECKING:
    from raypixel.jobs.sweep import SweepResult
    from raypixel.jobs.trials import TrialResult
    from raypixel.jobs.worker import Message
    from raypixel.sweeps import Trial

SET_OPTION = click.option(
    "--set",
    "assignments",
    metavar="KEY=VALUE",
    multiple=True,
    help="Change one option, for example model.hidden_size=64. Repeatable.",
)
RUNS_OPTION = click.option(
    "--runs",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs"),
    show_default=True,
    help="Folder that holds the runs.",
)
ADDRESS_OPTION = click.option(
    "--address", help="Ray cluster to join; default RAY_ADDRESS, else a private one."
)


@click.command()
@click.argument("recipe", metavar="RECIPE_OR_PATH", default="digits_pixelcnn")
@SET_OPTION
@click.option(
    "--run", "run_name", metavar="NAME", help="Name of the run's folder; default the recipe's."
)
@RUNS_OPTION
@click.option("--resume", is_flag=True, help="Continue this run from its newest checkpoint.")
@ADDRESS_OPTION
def train(
    recipe: str,
    assignments: tuple[str, ...],
    run_name: str | None,
    runs: Path,
    resume: bool,
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
    """
    from raypixel.config import parse_overrides
    from raypixel.experiment import load_experiment
    from raypixel.jobs.train import train_recorded
    from raypixel.jobs.worker import ensure_prepared

    config = load_experiment(recipe, parse_overrides(assignments))
    folder = runs / (run_name or config.name)
    with bar(f"preparing {config.data.name}", unit="images") as progress:
        manifest = ensure_prepared(config.data, progress=progress)
    with _training_progress(folder.name) as show:
        outcome = train_recorded(
            config,
            manifest,
            folder,
            resume=resume,
            on_message=show,
            warn=say,
            address=address,
        )
    _say_where(folder, folder, outcome.samples_problem, outcome.tracking)
    click.echo(f"val/bits_per_dim {outcome.best.state['best']:.4f}")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@SET_OPTION
@RUNS_OPTION
@ADDRESS_OPTION
def sweep(file: Path, assignments: tuple[str, ...], runs: Path, address: str | None) -> None:
    """Run every trial of a sweep FILE with Ray Tune and rank them.

    The trials are ranked by their validation likelihood; the table shows the test likelihood beside two baselines on the
    same images. --set changes the base experiment of all trials.

    \b
    Example:
      raypixel sweep sweeps/quickstart.yaml --set training.num_epochs=5
    """
    from raypixel.config import parse_overrides
    from raypixel.errors import RaypixelError
    from raypixel.jobs import record
    from raypixel.jobs.sweep import check_trials, run_sweep
    from raypixel.jobs.worker import ensure_prepared
    from raypixel.sweeps import load_sweep

    sweep_config, trials = load_sweep(file, parse_overrides(assignments))
    folder = _free_folder(runs / sweep_config.name)
    data = trials[0].config.data
    with bar(f"preparing {data.name}", unit="images") as progress:
        manifest = ensure_prepared(data, progress=progress)
    check_trials(trials, manifest)
    say(f"{sweep_config.name}: {len(trials)} trials on {data.name}, into {folder}")
    with (
        record.open_tracker(say) as tracker,
        record.start_sweep(tracker, sweep_config, folder) as parent,
        _TrialLines(len(trials)) as watch,
    ):
        result = run_sweep(
            sweep_config,
            trials,
            manifest,
            folder,
            watch=watch,
            tracker=tracker,
            parent=parent,
            address=address,
        )
        best = result.trials[0]
        problem = best.error
        if best.error is None:
            problem = record.draw_samples(best.best, folder / "samples.png")
            record.record_files(parent, folder)
    _print_ranking(result, data.name)
    if best.error is not None:
        raise RaypixelError(f"{sweep_config.name}: no trial succeeded")
    _say_where(folder, best.folder, problem, tracker.describe())
    if any(trial.error for trial in result.trials):
        sys.exit(1)


class _TrialLines:
    """Show a sweep: a bar for each running trial in a terminal, a line for each finished one anywhere."""

    def __init__(self, num_trials: int) -> None:
        self.num_trials = num_trials
        self.num_finished = 0
        self.bar = training_bar() if sys.stderr.isatty() else None
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> "_TrialLines":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.bar:
            self.bar.stop()

    def start(self, trial: "Trial") -> None:
        if self.bar and trial.label not in self.tasks:
            self.tasks[trial.label] = self.bar.add_task(trial.label, total=None, note="")

    def progress(self, trial: "Trial", message: "Message") -> None:
        if self.bar:
            self.bar.update(
                self.tasks[trial.label],
                completed=message.step,
                total=message.total_steps,
                note=f"val {message.metrics['val/bits_per_dim']:.4f} bits/dim",
            )

    def finish(self, result: "TrialResult") -> None:
        self.num_finished += 1
        if self.bar:
            self.bar.remove_task(self.tasks.pop(result.trial.label))
        shown = result.error or (
            f"val {result.metrics['val/bits_per_dim']:.4f}, test "
            f"{result.metrics['test/bits_per_dim']:.4f} bits/dim, "
            f"{minutes(result.metrics['seconds'])}"
        )
        line = f"[{self.num_finished}/{self.num_trials}] {result.trial.label}: {shown}"
        if self.bar:
            self.bar.console.print(line, markup=False, soft_wrap=True)
        else:
            say(line)


def _print_ranking(result: "SweepResult", data_name: str) -> None:
    rows = []
    for rank, trial in enumerate(result.trials, start=1):
        label, metrics = trial.trial.label, trial.metrics
        if trial.error is not None:
            rows.append(["-", label, "failed", trial.error, "", ""])
            continue
        rows.append(
            [
                str(rank),
                label,
                f"{metrics['val/bits_per_dim']:.4f}",
                f"{metrics['test/bits_per_dim']:.4f}",
                f"{metrics['num_parameters']:,.0f}",
                minutes(metrics["seconds"]),
            ]
        )
    rows += [["", f"baseline: {n}", "", f"{v:.4f}", "", ""] for n, v in result.baselines.items()]
    title = f"{data_name}, bits/dim, test split of {result.num_test_images:,} images"
    table(["rank", "trial", "val", "test", "parameters", "time"], rows, title=title)


def _say_where(folder: Path, run_folder: Path, problem: str | None, tracking: str) -> None:
    """Tell where the picture, the checkpoint and the MLflow store are, and what opens each."""
    picture = folder / "samples.png"
    viewer = "open" if sys.platform == "darwin" else "xdg-open"
    run = _shown(run_folder)
    say(f"samples     {problem or f'{_shown(picture)}, open it with `{viewer} {_shown(picture)}`'}")
    say(f"checkpoint  {run}/checkpoints/best, use it with")
    say(f"            `{_program()} evaluate {run}` and `{_program()} sample {run} -n 64`")
    say(f"MLflow      {tracking}")


def _shown(path: Path) -> str:
    path, here = path.absolute(), Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def _program() -> str:
    """Return what calls this program: its name where the shell finds it, else its path."""
    program = Path(sys.argv[0])
    found = shutil.which("raypixel")
    return "raypixel" if found and Path(found).resolve() == program.resolve() else _shown(program)


@contextmanager
def _training_progress(name: str) -> Iterator[Callable[["Message"], None]]:
    """Show a training: a bar in a terminal; a line for each epoch and every few seconds elsewhere."""
    if sys.stderr.isatty():
        with training_bar() as shown:
            task = shown.add_task(name, total=None, note="starting")
            yield lambda message: _update_bar(shown, task, message)
    else:
        shown_at = time.monotonic()

        def show(message: "Message") -> None:
            nonlocal shown_at
            is_due = time.monotonic() - shown_at >= SECONDS_BETWEEN_LINES
            if message.kind != "step" or is_due:
                shown_at = time.monotonic()
                say(f"{name}: {_news(message)}")

        yield show


def _update_bar(shown: Any, task: Any, message: "Message") -> None:
    if message.kind == "warning":
        shown.console.print(message.text, markup=False, soft_wrap=True)
        return
    shown.update(task, completed=message.step, total=message.total_steps, note=_note(message))
    if message.kind == "epoch":
        shown.console.print(_news(message), markup=False, soft_wrap=True)


def _note(message: "Message") -> str:
    metrics = message.metrics
    if message.kind == "epoch":
        return f"val {metrics['val/bits_per_dim']:.4f} bits/dim"
    return (
        f"{metrics['train/batch_bits_per_dim']:.4f} bits/dim, "
        f"{metrics['train/images_per_second']:.0f} images/s"
    )


def _news(message: "Message") -> str:
    metrics = message.metrics
    if message.kind == "warning":
        return message.text
    where = f"step {message.step:,} of {message.total_steps:,}"
    if message.kind == "step":
        left = message.seconds / max(1, message.step) * (message.total_steps - message.step)
        return f"{where}, {_note(message)}, {minutes(left)} left"
    return (
        f"epoch {message.epoch} ({where}, {minutes(message.seconds)}): "
        f"train {metrics['train/bits_per_dim']:.4f}, val {metrics['val/bits_per_dim']:.4f} bits/dim "
        f"({metrics['val/nll_nats']:.2f} nats, {metrics['val/num_images']:.0f} images)"
    )


def _free_folder(folder: Path) -> Path:
    """Return the folder, or the first of folder-2, folder-3, ... that is not there yet."""
    candidate, number = folder, 1
    while candidate.exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate
