"""Compiling the training steps with torch.compile: how it is done, and whether it is worth it here.

It depends on the machine: on one CPU with bfloat16 products compiled steps were 1.6 times as fast, on another slower than plain
ones. So both are timed, on real images and without a trace in the training, when a training is long enough to gain by it.
"""

import math
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from raypixel.nn.lstm import DiagonalRecurrence, RowRecurrence

STEPS_BEFORE_CHOICE = 20
"""Plain steps before the choice: the first ones also compile kernels and fill caches."""
LEAST_SECONDS = 900.0
"""Trainings with less left stay plain: compiling takes up to a minute or two, and gains at most some tenths."""
LEAST_GAIN = 1.03
ROUNDS = 5


@dataclass(frozen=True)
class Timing:
    """Seconds of a forward and backward pass, the fastest of some.

    Attributes:
        plain: Without compiling.
        compiled: Compiled; infinite where that failed.
        network: What is compiled.
        problem: Why it failed, else None.
    """

    plain: float
    compiled: float
    network: nn.Module
    problem: str | None = None

    @property
    def is_faster(self) -> bool:
        """Whether compiled steps are faster by more than noise."""
        return self.compiled * LEAST_GAIN <= self.plain

    def describe(self, *, is_used: bool) -> str:
        """Return a line that says which steps are used, and why."""
        if self.problem is not None:
            return f"steps are not compiled: {self.problem}"
        chosen = "compiled" if is_used else "plain"
        return (
            f"a step takes {1000 * self.plain:.0f} ms, compiled {1000 * self.compiled:.0f} ms: {chosen} "
            "steps are used (training.compile)"
        )


def compiled(network: nn.Module) -> nn.Module:
    """Wrap a network so that its calls are compiled; the model within, which is saved and validated, keeps its names.

    Each batch size has a graph of its own, whichever came first: a resumed training computes what an undisturbed one does.
    Recurrences have kernels of their own, which the compiler would trace into.
    """
    torch.compiler.reset()  # graphs of earlier trials in this process count towards a limit
    for module in network.modules():
        if isinstance(module, RowRecurrence | DiagonalRecurrence):
            module.forward = torch.compiler.disable(module.forward)  # type: ignore[method-assign]
    return cast(nn.Module, torch.compile(network, dynamic=False))


def has_compiler(device: torch.device) -> bool:
    """Return whether this machine has the compiler that torch.compile calls: of C++ for a CPU, of C for Triton."""
    if device.type == "cuda":
        return shutil.which(os.environ.get("CC", "gcc")) is not None
    usual = "clang++" if sys.platform == "darwin" else "g++"
    return shutil.which(os.environ.get("CXX", usual)) is not None


def time_both(
    network: nn.Module, step: Callable[[nn.Module], None], device: torch.device
) -> Timing:
    """Time plain and compiled steps in turn.

    Args:
        network: What is trained.
        step: A forward and backward pass of a network that leaves no trace.
        device: Where it computes.
    """
    other = compiled(network)
    try:
        step(other)
    except Exception as error:  # a compiler fails in many ways, and the training can do without
        text = str(error).strip().partition("\n")[0]
        return Timing(0.0, math.inf, other, f"{type(error).__name__}: {text}")
    plain = fastest = math.inf
    for _ in range(ROUNDS):
        plain = min(plain, seconds_of(lambda: step(network), device))
        fastest = min(fastest, seconds_of(lambda: step(other), device))
    return Timing(plain, fastest, other)


def seconds_of(step: Callable[[], None], device: torch.device) -> float:
    """Return the seconds that a call takes, what it left to a GPU included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
