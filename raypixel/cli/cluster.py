"""`raypixel cluster`: check the files that describe one, and watch it grow and shrink."""

from pathlib import Path

import click

from raypixel.cli.progress import say


@click.group()
def cluster() -> None:
    """Check the files of a Ray cluster, and try out its autoscaling."""


@cluster.command()
@click.argument(
    "files", metavar="FILE...", type=click.Path(path_type=Path), nargs=-1, required=True
)
def check(files: tuple[Path, ...]) -> None:
    """Check `ray up` files and KubeRay manifests, all problems at once, before anything is started.

    What a file is, is read off its content. Nothing is contacted.

    \b
    Examples:
      raypixel cluster check cluster/ray-cluster.yaml
      raypixel cluster check cluster/*.yaml
    """
    from raypixel.cluster import check_file
    from raypixel.errors import ConfigError

    problems: list[str] = []
    for file in files:
        try:
            kinds = check_file(file)
        except ConfigError as error:
            problems += error.problems
        else:
            click.echo(f"{file}: {', '.join(kinds)}, no problem")
    if problems:
        raise ConfigError(problems)


@cluster.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--sweep",
    "sweep_file",
    type=click.Path(path_type=Path),
    default=Path("sweeps/quickstart.yaml"),
    show_default=True,
    help="Sweep whose trials ask for machines.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1),
    default=10.0,
    show_default=True,
    help="Length of a trial.",
)
@click.option(
    "--most",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Workers at most: each machine is several processes here.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=300.0,
    show_default=True,
    help="Seconds until it is given up.",
)
def simulate(file: Path, sweep_file: Path, seconds: float, most: int, timeout: float) -> None:
    """Watch how a `ray up` cluster grows for a sweep and shrinks again, on this machine and at no cost.

    Ray's real autoscaler decides over the file's own node types; every machine is a process here, and each trial a
    placeholder that asks for the trial's resources and sleeps. What idles goes after 6 seconds instead of the file's minutes.

    \b
    Example:
      raypixel cluster simulate cluster/ray-cluster.yaml --sweep sweeps/diag_layers.yaml
    """
    from raypixel.cluster.simulate import Change, demand_of, simulate
    from raypixel.sweeps import load_sweep

    sweep = load_sweep(sweep_file, {})
    demand = demand_of(sweep, seconds=seconds, most=most)
    resources = " and ".join(f"{n:g} {name}" for name, n in demand.resources.items())
    say(f"{demand.count} workers of {resources} each, {seconds:g} s; starting the head")

    def show(change: Change) -> None:
        click.echo(f"{change.seconds:6.1f} s  {change.describe()}")

    simulate(file, demand, timeout_seconds=timeout, on_change=show)
