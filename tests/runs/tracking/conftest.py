"""A store that a first process made, and copies of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs.tracking.stores import copy_database

FIRST_USE = """
from raypixel.runs.tracking import Publisher, Record

def fail(text):
    raise AssertionError(text)

with Publisher(experiment="first", warn=fail) as publisher:
    made = publisher.follow_sweep(lambda: Record("run", "key", {}, {}))
    publisher.finish(made, "done")
open("description.txt", "w").write(publisher.describe())
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
