"""Speed and memory of PixelRNN's recurrences against the plain autograd loop, in one run.

    python benchmarks/recurrence.py [--quick] [--repeats N] [--threads N]

"sliced" is the plain loop as it is usually written: it takes each diagonal or row of the input by
indexing, whose backward pass adds a zero-filled map of the whole input for every one. Of the two
plain loops, "reference" avoids that by `unbind`; ratios are given against both.

A training step is forward and backward of the recurrences of one layer, given input-to-state maps
that need a gradient. Implementations take turns and the median of their times is printed, because
the cores may be shared. GFLOP/s counts the operations of the three matrix products of a cell
(forward, state gradient, weight gradient) and nothing else; "share" divides it by the rate of the
best square float32 `torch.matmul` of the same run. The floor is what these operations and the
necessary memory traffic take at the measured rates, one after the other.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from raypixel import kernels

Name = Literal["sliced"] | kernels.Implementation
NAMES: tuple[Name, ...] = ("sliced", "reference", "fused", "raster")


@dataclass(frozen=True)
class Case:
    recurrence: str
    num_images: int
    size: int
    side: int
    bar: float | None

    @property
    def num_directions(self) -> int:
        return 2 if self.recurrence == "diagonal" else 1

    @property
    def num_cells(self) -> int:
        return self.num_images * self.num_directions * self.side**2

    @property
    def operations(self) -> int:
        """Multiplications and additions of the three products of each cell, as 2 per pair."""
        num_neighbours = 2 if self.recurrence == "diagonal" else 3
        return self.num_cells * 3 * 2 * 4 * self.size * num_neighbours * self.size

    @property
    def bytes(self) -> int:
        """Read x, write h; keep and read gates (4h) and cells; read dh and h; write dx."""
        return self.num_cells * self.size * 4 * (4 + 1 + 2 * (4 + 1) + 2 + 4)

    def arguments(self) -> list[Tensor]:
        d = (2,) if self.recurrence == "diagonal" else ()
        h, generator = self.size, torch.Generator().manual_seed(0)
        weights = [(*d, 4 * h, h)] * 2 if d else [(4 * h, h, 3)]
        shapes = [(self.num_images, *d, 4 * h, self.side, self.side), *weights, (*d, h), (*d, h)]
        draws = [torch.randn(shape, generator=generator) for shape in shapes]
        scaled = [draws[0], *[w * h**-0.5 for w in draws[1:-2]], *draws[-2:]]
        return [draw.requires_grad_() for draw in scaled]


CASES = (
    Case("diagonal", 64, 16, 28, 12),
    Case("diagonal", 16, 128, 32, 4),
    Case("row", 64, 16, 28, 5),
    Case("diagonal", 16, 16, 28, None),
    Case("row", 16, 16, 28, None),
)
QUICK_CASES = (Case("diagonal", 16, 4, 6, None), Case("row", 16, 4, 6, None))


def run(case: Case, arguments: list[Tensor], name: Name) -> Tensor:
    x, *weights, hidden, cell = arguments
    if name == "sliced":
        return run_sliced(case, arguments)
    if case.recurrence == "row":
        return kernels.row_lstm(
            x,
            weights[0],
            initial_hidden=hidden,
            initial_cell=cell,
            implementation=name,
        )
    return kernels.diagonal_lstm(
        x,
        weights[0],
        weight_up=weights[1],
        initial_hidden=hidden,
        initial_cell=cell,
        implementation=name,
    )


def run_sliced(case: Case, arguments: list[Tensor]) -> Tensor:
    """The recurrences as a plain loop over slices."""
    if case.recurrence == "row":
        x, weight, hidden, cell = arguments
        hidden, cell = (s[:, None].expand(len(x), -1, case.side) for s in (hidden, cell))
        states = []
        for i in range(case.side):
            gates = x[:, :, i] + nn.functional.conv1d(hidden, weight, padding=1)
            hidden, cell = lstm_cell(gates, cell)
            states.append(hidden)
        return torch.stack(states, dim=2)
    x, left, up, *initial = arguments
    first = one_direction(x[:, 0], left[0], up[0], [s[0] for s in initial])
    second = one_direction(x[:, 1].flip(-1), left[1], up[1], [s[1] for s in initial]).flip(-1)
    return torch.stack([first, second], dim=1)


def one_direction(x: Tensor, left: Tensor, up: Tensor, initial: list[Tensor]) -> Tensor:
    num_images, _, height, _ = x.shape
    skewed = kernels.skew(x)
    start, cell_start = (s[:, None].expand(num_images, -1, height) for s in initial)
    hidden, cell, states = start, cell_start, []
    for d in range(skewed.shape[-1]):
        above = torch.cat([start[:, :, :1], hidden[:, :, :-1]], dim=2)
        hidden, cell = lstm_cell(skewed[:, :, :, d] + left @ hidden + up @ above, cell)
        states.append(hidden)
        has_entered = torch.arange(height) <= d
        hidden = torch.where(has_entered, hidden, start)
        cell = torch.where(has_entered, cell, cell_start)
    return kernels.unskew(torch.stack(states, dim=-1))


def lstm_cell(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    o, f, i, g = gates.chunk(4, dim=1)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def time_of(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(case: Case, repeats: int) -> dict[str, tuple[float, float]]:
    """Return the median seconds of a forward pass and of a training step."""
    arguments = case.arguments()
    gradient = torch.randn_like(run(case, arguments, "raster"))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in NAMES}
    for repeat in range(repeats + 1):
        for name in NAMES:
            start = time.perf_counter()
            result = run(case, arguments, name)
            middle = time.perf_counter()
            torch.autograd.grad(result, arguments, gradient)
            end = time.perf_counter()
            if repeat > 0:
                times[name].append((middle - start, end - start))
    return {
        name: (statistics.median(t[0] for t in pairs), statistics.median(t[1] for t in pairs))
        for name, pairs in times.items()
    }


def matrix_rate(repeats: int) -> float:
    """Return operations per second of the best square float32 product."""
    rates = []
    for side in (512, 1024, 2048):
        a, b = torch.randn(side, side), torch.randn(side, side)
        seconds = statistics.median(time_of(lambda a=a, b=b: a @ b) for _ in range(repeats + 2))
        rates.append(2 * side**3 / seconds)
    return max(rates)


def copy_rate(repeats: int) -> float:
    """Return bytes per second, read and written, of copying 256 MB."""
    source = torch.ones(64 * 2**20)
    target = torch.empty_like(source).copy_(source)
    seconds = statistics.median(time_of(lambda: target.copy_(source)) for _ in range(repeats + 2))
    return 2 * source.nbytes / seconds


def print_speed(cases: tuple[Case, ...], repeats: int) -> None:
    rate, bandwidth = matrix_rate(repeats), copy_rate(repeats)
    print(f"{torch.get_num_threads()} threads, float32 matmul {rate / 1e9:.0f} GFLOP/s, ", end="")
    print(f"copy {bandwidth / 1e9:.1f} GB/s, medians of {repeats}")
    for case in cases:
        title = f"{case.recurrence}, batch {case.num_images}, h={case.size}"
        floor = case.operations / rate + case.bytes / bandwidth
        print(f"\n{title}, {case.side}x{case.side}: {case.operations / 1e9:.2f} GFLOP, ", end="")
        print(f"{case.bytes / 1e6:.0f} MB, floor {floor * 1e3:.1f} ms", end="")
        print(f", bar {case.bar:g}x" if case.bar else "")
        print("  implementation  forward ms  step ms  images/s  x sliced  x reference", end="")
        print("  GFLOP/s  share  x floor")
        times = measure(case, repeats)
        for name, (forward, step) in times.items():
            sliced, reference = (times[other][1] / step for other in ("sliced", "reference"))
            found = case.operations / step
            print(
                f"  {name:14}  {forward * 1e3:10.1f}  {step * 1e3:7.1f}  "
                f"{case.num_images / step:8.0f}  {sliced:8.1f}  {reference:11.1f}  "
                f"{found / 1e9:7.1f}  {found / rate:5.0%}  {step / floor:7.1f}"
            )


def peak_megabytes() -> float:
    """Return this program's peak memory (`ru_maxrss` would include that of the parent process)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return float(status.split("VmHWM:")[1].split()[0]) / 1024


def train_stack(name: Name, num_layers: int, num_images: int) -> None:
    """Train a stack of layers for two steps and print the peak before and after, in MB."""
    case = Case("diagonal", num_images, 16, 28, None)
    inputs = [nn.Conv2d(16, 2 * 4 * 16, 1) for _ in range(num_layers)]
    others = [case.arguments()[1:] for _ in range(num_layers)]
    small = Case("diagonal", 1, 16, 2, None)  # compile, or load, before the count begins
    run(small, small.arguments(), name).sum().backward()
    start = torch.randn(num_images, 16, 28, 28)
    before = peak_megabytes()
    for _ in range(2):
        x = start
        for convolution, weights in zip(inputs, others, strict=True):
            gates = convolution(x).unflatten(1, (2, 64))
            x = x + run(case, [gates, *weights], name).sum(dim=1)
        x.square().mean().backward()
    print(before, peak_megabytes())


def print_memory(num_layers: int, num_images: int) -> None:
    print(f"\npeak memory, training steps of {num_layers} Diagonal BiLSTM layers, ", end="")
    print(f"h=16, batch {num_images}, 28x28")
    for name in NAMES:
        command = [sys.executable, __file__, "--stack", name, str(num_layers), str(num_images)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        before, after = map(float, output.split())
        print(f"  {name:14}  {after:6.0f} MB, of which {after - before:6.0f} MB in the steps")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--stack", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.stack:
        name, num_layers, num_images = options.stack
        train_stack(name, int(num_layers), int(num_images))
    elif options.quick:
        print_speed(QUICK_CASES, 1)
        print_memory(1, 2)
    else:
        print_speed(CASES, options.repeats)
        print_memory(7, 64)


if __name__ == "__main__":
    main()
