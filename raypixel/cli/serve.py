"""`raypixel serve`: models over HTTP, until Ctrl-C or SIGTERM; and `raypixel register`."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raypixel.cli.common_options import ADDRESS_OPTION, CHECKPOINT_ARGUMENT, DEVICE_OPTION
from raypixel.cli.progress import say
from raypixel.cli.signals import ENDING

if TYPE_CHECKING:
    from raypixel.serving.launch import Launch


@click.command()
@click.argument("checkpoint", required=False)
@click.option(
    "--model",
    "models",
    metavar="NAME=CHECKPOINT",
    multiple=True,
    help="Serve this checkpoint under a name; repeatable. Also NAME=models:/REGISTERED@ALIAS.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A config file of Ray Serve, such as cluster/serve.yaml, in place of all else.",
)
@click.option("--check", is_flag=True, help="Check the config file and end.")
@click.option("--host", help="Address to listen on; default 127.0.0.1, this machine only.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on; default 8000.")
@click.option(
    "--api-keys",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File of API keys, one a line. More may stand in RAYPIXEL_API_KEYS, separated by commas.",
)
@click.option(
    "--allowed-host",
    "allowed_hosts",
    metavar="NAME",
    multiple=True,
    help="A name by which it may be asked, as by a proxy of this machine; repeatable.",
)
@click.option(
    "--replicas", type=click.IntRange(min=1), default=1, show_default=True, help="Processes."
)
@click.option(
    "--slots",
    type=click.IntRange(1, 4096),
    default=64,
    show_default=True,
    help="Images that a replica makes at a time.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=300.0,
    show_default=True,
    help="Seconds after which a request is cancelled.",
)
@DEVICE_OPTION
@ADDRESS_OPTION
def serve(
    checkpoint: str | None,
    models: tuple[str, ...],
    config: Path | None,
    check: bool,
    host: str | None,
    port: int | None,
    api_keys: Path | None,
    allowed_hosts: tuple[str, ...],
    replicas: int,
    slots: int,
    timeout: float,
    device: Any,
    address: str | None,
) -> None:
    """Answer on HTTP: samples, completions, scores, and a page to play with.

    CHECKPOINT is a checkpoint's or a run's folder, or zoo:NAME; without any, the whole zoo is served (`raypixel zoo`). Ctrl-C
    or SIGTERM ends it once the accepted requests are answered; a second one ends it at once. Where other machines can ask
    (--host), API keys are required.

    \b
      raypixel serve
      raypixel serve runs/digits_pixelcnn
      raypixel serve --model digits=runs/digits_pixelcnn --model best=models:/mnist@champion
      raypixel serve --config cluster/serve.yaml --check
    """
    from raypixel.errors import ConfigError
    from raypixel.serving.launch import (
        DEFAULT_HOST,
        DEFAULT_PORT,
        Launch,
        from_config,
        local_options,
        parse_models,
    )
    from raypixel.serving.serve_config import read_serve_config
    from raypixel.serving.settings import Limits, Settings

    if config is not None:
        if checkpoint is not None or models:
            raise ConfigError("--config must stand alone, got models too")
        launch = from_config(read_serve_config(config), where=str(config))
        if check:
            click.echo(f"{config}: is a service of {', '.join(launch.settings.models)}")
            return
        launch = replace(launch, host=host or launch.host, port=port or launch.port)
    else:
        if check:
            raise ConfigError("--check must be given with --config, got none")
        settings = Settings(
            models=parse_models(models, checkpoint),
            limits=Limits(timeout_s=timeout),
            num_slots=slots,
            device=device,
            api_keys_file=api_keys,
            allowed_hosts=allowed_hosts,
        )
        options = {**local_options(replicas), "graceful_shutdown_timeout_s": timeout + 30}
        launch = Launch(settings, host or DEFAULT_HOST, port or DEFAULT_PORT, options)
    _serve(launch, address)


def _serve(launch: "Launch", address: str | None) -> None:
    from raypixel.serving.launch import absolute, check
    from raypixel.serving.settings import KEYS_VARIABLE
    from raypixel.train.ray_cluster import cluster

    is_local = (address or os.environ.get("RAY_ADDRESS") or "local") == "local"
    keys = check(launch, is_local=is_local, environment=os.environ)
    os.environ.pop(KEYS_VARIABLE, None)  # each of Ray's processes would inherit it
    launch = absolute(launch)
    say(f"starting {', '.join(launch.settings.models)} ...")
    with _interrupted_by_signals(), ExitStack() as quiet, cluster(address):
        from raypixel.serving import app

        with _interrupted_by_signals():  # Ray has put its own handler in place of ours
            handle = app.start(launch, keys)
        stop = threading.Event()
        try:
            with _stopped_by_signals(stop):
                _say_address(launch, needs_key=bool(keys))
                while not stop.wait(1.0):
                    pass
                say("finishing what was accepted; once more ends it at once")
                _finish(handle, timeout_s=launch.settings.limits.timeout_s + 10)
        finally:
            quiet.enter_context(_without_output())
            app.stop()


@contextmanager
def _without_output() -> Iterator[None]:
    """Drop what is written: Ray's own code, not all of it Python, reports each call that it cuts off at its end."""
    streams = (sys.stdout, 1), (sys.stderr, 2)
    for stream, _ in streams:
        stream.flush()
    kept = [os.dup(number) for _, number in streams]
    with Path(os.devnull).open("wb") as nowhere:
        for _, number in streams:
            os.dup2(nowhere.fileno(), number)
    try:
        yield
    finally:
        for (stream, number), before in zip(streams, kept, strict=True):
            stream.flush()
            os.dup2(before, number)
            os.close(before)


def _finish(handle: Any, *, timeout_s: float) -> None:
    """Wait until what was accepted is answered, as long as Ray is there to do it."""
    from raypixel.serving import app

    is_finished: list[bool] = []
    drain = threading.Thread(
        target=lambda: is_finished.append(app.drain(handle, timeout_s=timeout_s)), daemon=True
    )
    drain.start()
    while drain.is_alive():
        if not app.is_there():
            # the signal went to Ray's processes too: there is nothing to stop, and Ray, after a minute of trying to
            # reach them, would end this process with pages of its own
            say("Ray was ended too: what was accepted is not finished")
            os._exit(1)
        drain.join(0.5)
    if is_finished != [True]:
        say("some requests were not finished")


def _say_address(launch: "Launch", *, needs_key: bool) -> None:
    click.echo(launch.url)
    key = " -H 'Authorization: Bearer YOUR_KEY'" if needs_key else ""
    say(
        f"  curl {launch.url}/v1/samples{key} --json '{{\"n\": 16}}' -H 'Accept: image/png' -o samples.png"
    )
    say("Ctrl-C ends it")


def _stopped_by_signals(stop: threading.Event) -> AbstractContextManager[None]:
    """Let SIGINT, SIGTERM and SIGHUP set an event; the second one interrupts."""

    def on_signal(number: int, frame: object) -> None:
        del number, frame
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    return _handled(on_signal)


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP interrupt: nothing is accepted yet that must be finished."""

    def on_signal(number: int, frame: object) -> None:
        del number, frame
        raise KeyboardInterrupt

    with _handled(on_signal):
        try:
            yield
        except SystemExit:  # by Ray's own handler, which stands while Ray starts
            raise KeyboardInterrupt from None


@contextmanager
def _handled(on_signal: Callable[[int, Any], None]) -> Iterator[None]:
    before = {name: signal.signal(name, on_signal) for name in (signal.SIGINT, *ENDING)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler or signal.SIG_DFL)


@click.command()
@CHECKPOINT_ARGUMENT
@click.argument("name")
@click.option("--alias", help="Points to this version from now on, for example champion.")
def register(checkpoint: Path, name: str, alias: str | None) -> None:
    """Register a checkpoint in MLflow's registry as the next version of NAME.

    Prints the URI that `raypixel serve --model x=URI` takes. CHECKPOINT is a checkpoint's or a run's folder. The registry is
    that of MLFLOW_TRACKING_URI, or mlflow.db in the working folder.

    \b
      raypixel register runs/mnist_pixelcnn mnist --alias champion
    """
    from raypixel.runs import find_checkpoint
    from raypixel.runs.tracking.registered_models import register_model

    made = register_model(find_checkpoint(checkpoint), name, alias=alias)
    say(f"version {made.version} of {made.name} in {made.store}")
    click.echo(made.uri)
