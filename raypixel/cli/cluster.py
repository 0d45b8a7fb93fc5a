"""`raypixel cluster`: check the files that describe one."""

from pathlib import Path

import click


@click.group()
def cluster() -> None:
    """Check the files of a Ray cluster."""


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
