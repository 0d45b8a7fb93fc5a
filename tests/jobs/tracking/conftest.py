"""A store that a first process made, and copies of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs.tracking.stores import copy_database

FIRST_USE = """
from raypixel.jobs.tracking import Tracker

def fail(text):
    raise AssertionError(text)

with Tracker("first", warn=fail) as tracker:
    with tracker.start("run", params={}, tags={}) as run:
        run.log({"val/bits_per_dim": 1.0}, step=1)
open("description.txt", "w").write(tracker.describe())
"""


@pytest.fixture(scope="session")
def first_use(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder, with a space in its name, where a first process tracked a run, and what it printed."""
    folder = tmp_path_factory.mktemp("tracking") / "my work"
    folder.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    done = subprocess.run(
        [sys.executable, "-c", FIRST_USE],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    return folder, done.stdout


@pytest.fixture
def database(first_use: tuple[Path, str], tmp_path: Path) -> Path:
    """A database of its own for each test; making one from nothing takes 3 s."""
    return copy_database(first_use[0] / "mlflow.db", tmp_path / "mlflow.db")


@pytest.fixture
def uri(database: Path) -> str:
    return f"sqlite:///{database}"
