"""Processes of Ray's and of ours, for the tests that end them."""

import os
import signal
from pathlib import Path


def worker_pids() -> list[int]:
    """Return the training processes of Ray that this process has started; other people's are left alone."""
    return [pid for pid in _pids() if b"RayTrainWorker" in _read(pid, "cmdline") and _is_ours(pid)]


def take_interrupts() -> None:
    """Undo what a shell, or nohup, does to background processes, so that SIGINT and SIGHUP arrive wherever the tests run."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _is_ours(pid: int) -> bool:
    while pid > 1:
        if pid == os.getpid():
            return True
        after_name = _read(pid, "stat").rpartition(b")")[2].split()
        pid = int(after_name[1]) if after_name else 0
    return False


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it has ended
        return b""
