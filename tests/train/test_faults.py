"""Trainings on a cluster whose workers, machines and driver are killed or taken away, through the command line.

Every loss of a training is in its train bits/dim of an epoch, a sum over its steps: trainings whose lines of metrics.jsonl are
equal had equal losses.
"""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml

from raypixel.experiment import ExperimentConfig
from tests.train.machines import Machines, environment
from tests.train.processes import take_interrupts, worker_pids
from tests.trained import train_into

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ENDLESS = 100_000
LOG = logging.getLogger(__name__)
"""The story of each test: `pytest --log-cli-level=INFO`."""


@pytest.fixture
def machines() -> Iterator[Machines]:
    cluster = Machines()
    yield cluster
    cluster.stop()


@pytest.fixture
def drive(tmp_path, machines) -> Iterator[Callable[[ExperimentConfig], "Driver"]]:
    """Make drivers, whose processes end with the test."""
    drivers: list[Driver] = []

    def make(config: ExperimentConfig) -> Driver:
        drivers.append(Driver(config, tmp_path, machines))
        return drivers[-1]

    yield make
    for driver in drivers:
        if driver.process is not None and driver.process.poll() is None:
            driver.process.kill()
            driver.process.wait()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute with one thread, as a worker of one CPU does: sums of more are rounded otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Driver:
    """`raypixel train` on the cluster, in a process group of its own."""

    def __init__(self, config: ExperimentConfig, folder: Path, machines: Machines) -> None:
        self.folder = folder / "run"
        self.log = folder / "log"
        self.file = folder / "experiment.yaml"
        self.file.write_text(yaml.safe_dump(config.to_mapping()))
        self.machines = machines
        self.process: subprocess.Popen | None = None

    def start(self, *extra: str) -> None:
        program = [sys.executable, "-m", "raypixel", "train", str(self.file), *extra]
        where = ["--runs", str(self.folder.parent), "--run", "run"]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*program, *where, "--address", self.machines.address],
                env=environment(),
                stdout=log,
                stderr=log,
                preexec_fn=take_interrupts,
            )

    def finish(self) -> None:
        """Wait for the end, which must be a good one."""
        assert self.process is not None
        code = self.process.wait(timeout=180)
        assert code == 0, f"{code}: {self.log.read_text()}"

    def wait_for(self, condition: Callable[[], bool], *, seconds: float = 240.0) -> None:
        assert self.process is not None
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.002)

    def train_on(self, num_epochs: int = 2) -> None:
        """Wait for some more epochs."""
        seen = len(self.lines())
        self.wait_for(lambda: len(self.lines()) >= seen + num_epochs)

    def lines(self) -> list[dict]:
        file = self.folder / "metrics.jsonl"
        if not file.exists():
            return []
        whole = [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in whole]

    def saved_step(self) -> int:
        """Return the step of the newest complete checkpoint."""
        names = [path.name for path in (self.folder / "checkpoints").glob("step-*")]
        return max(int(name.removeprefix("step-")) for name in names)

    def is_writing(self) -> bool:
        """Return whether a checkpoint is being written."""
        return any((self.folder / "checkpoints").glob(".step-*.tmp"))

    def continuations(self) -> list[tuple[int, int]]:
        """Return the step and the number of workers of each start but the first."""
        found = re.findall(r"continues at step ([\d,]+) with (\d+) worker", self.log.read_text())
        return [(int(step.replace(",", "")), int(workers)) for step, workers in found]

    def continued_after(self, disturb: Callable[[], object]) -> tuple[int, int]:
        """Disturb, wait until the training goes on, and return the step and the number of workers."""
        before = len(self.continuations())
        disturb()
        self.wait_for(lambda: len(self.continuations()) > before)
        return self.continuations()[before]


def test_training_outlives_killed_workers_machines_and_driver_and_a_preemption(
    tiny, digits, tmp_path, private_mlflow, machines, drive, one_thread
):
    """One worker, so all is bit for bit.

    Five failures are allowed: the death of a machine counts twice if Ray starts the worker there again before it knows.
    """
    config = tiny(
        training__num_epochs=ENDLESS,
        training__compile=False,  # what an endless training chooses is a matter of time
        training__schedule="constant",
        training__checkpoint_every_minutes=1e-3,
        data__max_train_images=320,
        scaling__num_workers=1,
        scaling__cpus_per_worker=1.0,
        scaling__max_failures=5,
    )
    driver = drive(config)
    first = machines.add()
    driver.start()
    driver.train_on()

    def disturb(what: str, act: Callable[[], None], when: Callable[[], None] | None = None) -> None:
        saved: list[int] = []

        def note_and_act() -> None:
            if when is not None:
                when()
            saved.append(driver.saved_step())
            act()

        step, workers = driver.continued_after(note_and_act)
        LOG.info("%s: saved at %d, went on at %d", what, saved[0], step)
        assert step >= saved[0]
        assert workers == 1
        driver.train_on()

    def kill_worker() -> None:
        for pid in worker_pids():
            os.kill(pid, signal.SIGKILL)

    disturb(
        "worker killed while it wrote a checkpoint",
        kill_worker,
        lambda: driver.wait_for(driver.is_writing),
    )
    disturb("worker killed between two epochs", kill_worker, lambda: driver.train_on(1))
    second = machines.add()
    disturb("machine killed", lambda: machines.kill(first))
    third = machines.add()
    disturb("machine taken away", lambda: machines.drain(second, seconds=6))
    assert "a worker is to end: saved at step" in driver.log.read_text()
    assert driver.process is not None
    driver.process.send_signal(signal.SIGKILL)
    driver.process.wait()
    saved = driver.saved_step()
    num_epochs = len(driver.lines()) + 5
    snapshot = driver.folder / "ray" / "old" / "checkpoint_manager_snapshot.json"
    snapshot.parent.mkdir(parents=True, exist_ok=True)
    snapshot.write_text('{"ray_version": "2.')  # one of Ray's, cut short: must not be read
    driver.start("--resume", "--set", f"training.num_epochs={num_epochs}")
    driver.finish()
    step, _ = driver.continuations()[-1]
    LOG.info("driver killed: saved at %d, went on at %d", saved, step)
    assert step >= saved
    machines.kill(third)

    whole = tiny(
        **{f"training__{k}": v for k, v in config.training.model_dump().items()}
        | {"training__num_epochs": num_epochs, "data__max_train_images": 320}
    )
    train_into(tmp_path / "whole", whole, digits)
    undisturbed = drive(config)
    undisturbed.folder = tmp_path / "whole"
    assert driver.lines() == undisturbed.lines()
    assert weights(driver.folder) == weights(undisturbed.folder)


def weights(folder: Path) -> bytes:
    return (folder / "checkpoints" / "last" / "model.safetensors").read_bytes()


def test_workers_are_added_and_lost_while_the_global_batch_and_its_order_stay(
    tiny, digits, tmp_path, private_mlflow, machines, drive, one_thread
):
    """[1, 2] workers: one machine, then two, then one; of the one image in the last batch one of two workers has none."""
    changes = {
        "training__batch_size": 4,  # an epoch of 81 steps takes seconds, so that notice comes amid one
        "training__schedule": "constant",
        "training__checkpoint_every_minutes": 0.02,
        "data__max_train_images": 321,
        "data__max_eval_images": 49,
    }
    elastic = {"num_workers": [1, 2], "resize_seconds": 2.0, "cpus_per_worker": 1.0}
    scaling = {f"scaling__{key}": value for key, value in elastic.items()}
    driver = drive(tiny(training__num_epochs=ENDLESS, **changes, **scaling))
    first = machines.add()
    driver.start()
    driver.train_on()
    step, workers = driver.continued_after(machines.add)
    LOG.info("machine added: went on at %d with 2 workers", step)
    assert workers == 2
    told = re.search(r"a worker is to end: saved at step ([\d,]+)", driver.log.read_text())
    assert told
    assert step >= int(told[1].replace(",", ""))
    driver.train_on()
    saved = driver.saved_step()
    killed_at = time.monotonic()
    step, workers = driver.continued_after(lambda: machines.kill(first))
    seconds = time.monotonic() - killed_at
    LOG.info(
        "machine killed: saved at %d, went on at %d with 1 worker %.0f s later",
        saved,
        step,
        seconds,
    )
    assert workers == 1
    assert step >= saved
    driver.train_on()
    assert driver.process is not None
    driver.process.send_signal(signal.SIGINT)
    assert driver.process.wait(timeout=60) == 130

    ours = driver.lines()
    whole = tiny(training__num_epochs=len(ours), **changes)
    train_into(tmp_path / "whole", whole, digits)
    driver.folder = tmp_path / "whole"
    for one, other in zip(ours, driver.lines(), strict=True):
        assert one == pytest.approx(other, rel=2e-3)
        assert one["val/num_images"] == 49
