"""The command group, and what all commands share: options, and errors as one line each."""

import signal
import sys
from typing import Any

import click

from raypixel import __version__
from raypixel.cli.signals import ended_by_signals
from raypixel.errors import RaypixelError


class _Group(click.Group):
    """List commands in the order they were added, suggest one for a typo, and print errors as lines."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from raypixel.errors import did_you_mean

            raise click.UsageError(
                error.message.rstrip(".") + did_you_mean(args[0], self.commands), ctx=ctx
            ) from None

    def invoke(self, ctx: click.Context) -> Any:
        with ended_by_signals() as came:
            try:
                return super().invoke(ctx)
            except RaypixelError as error:
                for problem in error.problems:
                    click.echo(f"Error: {problem}", err=True)
                sys.exit(1)
            except KeyboardInterrupt:
                stopped = ctx.invoked_subcommand
                advice = "; --resume continues it" if stopped in ("train", "sweep") else ""
                click.echo(f"\n{stopped} was interrupted{advice}", err=True)
                sys.exit(128 + (came[0] if came else signal.SIGINT))


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="raypixel")
def main() -> None:
    """Train, sweep, evaluate, sample and serve autoregressive image models on Ray.

    \b
    A first tour, in minutes on a laptop:
      raypixel sweep sweeps/quickstart.yaml     compare four PixelCNNs on 8x8 digits
      raypixel train digits_pixelcnn            train one recipe
      raypixel evaluate runs/digits_pixelcnn    exact likelihood on the test split
      raypixel sample runs/digits_pixelcnn      draw new digits
      raypixel complete runs/digits_pixelcnn --split test --index 0:8
      raypixel serve runs/digits_pixelcnn       the same over HTTP, and a page to play with
    """


def _add_commands() -> None:
    from raypixel.cli import catalog, cluster, evaluate, figure, runs, sample, serve, sweep

    for command in (
        runs.train,
        sweep.sweep,
        sweep.report,
        runs.publish,
        evaluate.evaluate,
        sample.sample,
        sample.complete,
        evaluate.score,
        serve.serve,
        serve.register,
        figure.figure,
        catalog.data,
        catalog.recipes,
        catalog.models,
        catalog.zoo,
        cluster.cluster,
    ):
        main.add_command(command)


_add_commands()
