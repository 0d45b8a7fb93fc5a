"""`raypixel publish`: what MLflow has not, by hand."""

import sys

import click

from raypixel.cli.progress import say
from raypixel.cli.runs import RUNS_OPTION
from raypixel.storage import Location, existing


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
