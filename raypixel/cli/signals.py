"""Signals that ask a command to end: each works as Ctrl-C does, and the exit code says which it was."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ENDING = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ended_by_signals() -> Iterator[list[int]]:
    """Let SIGTERM and SIGHUP do what Ctrl-C does, which Ray Train and Tune take to save and end; yield those that came.

    Slurm, systemd and Kubernetes send SIGTERM. A SIGHUP that is ignored, as by nohup, stays so. A SIGINT that is ignored, as in a
    shell's background, does too: there the others still end what runs.
    """
    came: list[int] = []

    def on_signal(number: int, frame: Any) -> None:
        del frame
        came.append(number)
        if callable(signal.getsignal(signal.SIGINT)):
            signal.raise_signal(signal.SIGINT)
        else:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, on_signal)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
