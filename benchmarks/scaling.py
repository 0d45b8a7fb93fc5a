"""Data-parallel scaling: 1 and 2 workers measured on 2 cores, and a model of cost for 8 to 512 workers.

    python benchmarks/scaling.py mnist_pixelcnn --steps 8 --rounds 5

Two processes of one thread each hold the recipe's model and take turns, round after round: one works alone; both work
independently at the same time (that is 100%); both work as DDP does, with and without its all-reduce. Each turn is the plain
training loop. Then the all-reduce is timed alone, over loopback.

The model of cost: a step computes for `fixed + slope * images`. The backward pass is the last two thirds of it and fills the
buckets of gradients at an even pace; one all-reduce runs at a time, each as soon as its bucket is full; one of 8 bytes (the loss)
ends the step. All-reduce of S bytes by n workers: ring 2(n-1) latencies + 2(n-1)/n S / bandwidth, tree 2 ceil(log2 n) latencies +
2 S / bandwidth. Stragglers, input and shared links are left out: it is an upper bound.
"""

import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
import torch.distributed as dist
import torch.multiprocessing
from common import data_root, median, prepared, timed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from raypixel.experiment import ExperimentConfig, build_experiment_model, load_experiment
from raypixel.nn.likelihoods import nll_nats
from raypixel.optimization import make_optimizer
from raypixel.train.start import read_splits

WARM_UP = 3
WORKERS = (8, 16, 32, 64, 128, 256, 512)
LOSS_BYTES = 8
COUNT, POSITIVE = click.IntRange(1), click.FloatRange(0, min_open=True)
option = partial(click.option, show_default=True)


class Loop:
    """A model with its optimizer, trained on random images of the split."""

    def __init__(self, config: ExperimentConfig, rank: int) -> None:
        manifest = prepared(config.data.name, data_root())
        self.images = read_splits(config.data, manifest)["train"].images
        self.generator = torch.Generator().manual_seed(rank)
        torch.manual_seed(0)
        model = build_experiment_model(config, manifest).to(memory_format=torch.channels_last)
        self.model: Any = model.train()
        self.optimizer = make_optimizer(config.training, model)
        self.ddp = DistributedDataParallel(model, gradient_as_bucket_view=True)
        self.is_bf16 = config.training.precision == "bf16"

    def step(self, network: nn.Module, num_images: int) -> None:
        """Train one step in the plainest way."""
        chosen = torch.randint(len(self.images), (num_images,), generator=self.generator)
        x = self.images[chosen]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.is_bf16):
            params = network(x)
        loss = nll_nats(self.model.likelihood, params, x).sum() / x.numel()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def without_all_reduce(self, num_images: int) -> None:
        """Train one step inside DDP, gradients kept to itself."""
        with self.ddp.no_sync():
            self.step(self.ddp, num_images)


def work(rank: int, config: ExperimentConfig, folder: Path, steps: int, rounds: int) -> None:
    """Take all turns as one of two workers; rank 0 writes what was measured."""
    torch.set_num_threads(1)
    rendezvous = f"file://{folder / 'rendezvous'}"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    loop, size = Loop(config, rank), config.training.batch_size
    turns: dict[str, tuple[Callable[[], None], bool]] = {
        "one worker, the other core idle": (lambda: loop.step(loop.model, size), rank == 0),
        "one worker, one image": (lambda: loop.step(loop.model, 1), rank == 0),
        "two independent loops": (lambda: loop.step(loop.model, size), True),
        "DDP without all-reduce": (lambda: loop.without_all_reduce(size), True),
        "DDP": (lambda: loop.step(loop.ddp, size), True),
        "DDP, half the batch each": (lambda: loop.step(loop.ddp, size // 2), True),
    }
    for _ in range(WARM_UP):
        for function, _ in turns.values():
            function()
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, (function, is_mine) in turns.items():
            dist.barrier()
            taken = timed(lambda f=function: [f() for _ in range(steps)]) if is_mine else 0.0
            both = torch.tensor([taken])
            dist.all_reduce(both, op=dist.ReduceOp.MAX)
            seconds[name].append(float(both) / steps)
    log = loop.ddp._get_ddp_logging_data()
    buckets = [int(n) for n in str(log["rebuilt_bucket_sizes"]).split(",")]
    num_bytes = 4 * sum(parameter.numel() for parameter in loop.model.parameters())
    reduced = {n: all_reduce_seconds(n) for n in sorted({4, *buckets, 2**20, 25 * 2**20})}
    if rank == 0:
        found = {"seconds": seconds, "buckets": buckets, "bytes": num_bytes, "reduced": reduced}
        (folder / "found.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def all_reduce_seconds(num_bytes: int, *, repeats: int = 15) -> float:
    """Return the median time of an all-reduce of float32 over the two workers."""
    gradients, taken = torch.zeros(num_bytes // 4), []
    for _ in range(repeats):
        dist.barrier()
        started = time.perf_counter()
        dist.all_reduce(gradients)
        taken.append(time.perf_counter() - started)
    return median(taken[2:])


@dataclass(frozen=True)
class Costs:
    """What the model of cost knows; seconds, bytes and bytes/s."""

    fixed: float
    slope: float
    buckets: tuple[int, ...]
    bandwidth: float
    latency: float

    def all_reduce(self, num_bytes: int, n: int, *, algorithm: str) -> tuple[float, float]:
        """Return what latency and what bandwidth cost."""
        hops = 2 * (n - 1) if algorithm == "ring" else 2 * math.ceil(math.log2(n))
        volume = 2 * num_bytes * ((n - 1) / n if algorithm == "ring" else 1)
        return hops * self.latency, volume / self.bandwidth

    def step(self, images: float, n: int, *, algorithm: str) -> tuple[float, float, float]:
        """Return the seconds of a step, and of all its all-reduces by latency and by bandwidth."""
        compute = self.fixed + self.slope * images
        end, waits, moves = 0.0, 0.0, 0.0
        for done, size in enumerate((*self.buckets, LOSS_BYTES), start=1) if n > 1 else ():
            wait, move = self.all_reduce(size, n, algorithm=algorithm)
            full = compute * (1 + 2 * min(1.0, done / len(self.buckets))) / 3
            end = max(end, full) + wait + move
            waits, moves = waits + wait, moves + move
        return max(end, compute), waits, moves

    def weak(self, batch: int, n: int, *, algorithm: str) -> float:
        """Return the efficiency at a fixed batch of each worker."""
        return (
            self.step(batch, 1, algorithm=algorithm)[0]
            / self.step(batch, n, algorithm=algorithm)[0]
        )

    def strong(self, batch: int, n: int, *, algorithm: str) -> float:
        """Return the efficiency at a fixed global batch."""
        one = self.step(batch, 1, algorithm=algorithm)[0]
        return one / (n * self.step(batch / n, n, algorithm=algorithm)[0])


def print_costs(title: str, costs: Costs, batch: int, total: int) -> None:
    """Print the efficiencies of many workers, and where they fall under a half."""
    fixed, slope = 1000 * costs.fixed, 1000 * costs.slope
    print(f"\n{title}: a step takes {fixed:.1f} + {slope:.2f} ms an image")
    print(
        "| workers | weak, ring | weak, tree | strong, ring | strong, tree |\n|---|---|---|---|---|"
    )
    for n in WORKERS:
        weak = [costs.weak(batch, n, algorithm=a) for a in ("ring", "tree")]
        strong = [costs.strong(total, n, algorithm=a) for a in ("ring", "tree")]
        cells = [f"{100 * e:.1f}%" for e in weak]
        cells += [f"{100 * e:.1f}%" if n <= total else "-" for e in strong]
        print(f"| {n} | {' | '.join(cells)} |")
    for kind, efficiency, size, most in (
        ("weak", costs.weak, batch, 2**17),
        ("strong", costs.strong, total, total),
    ):
        for algorithm in ("ring", "tree"):
            counts = (
                n for n in range(2, most + 1) if efficiency(size, n, algorithm=algorithm) < 0.5
            )
            n = next(counts, None)
            if n is None:
                print(f"{kind}, {algorithm}: never under 50% up to {most:,} workers")
                continue
            images = batch if kind == "weak" else total / n
            step, wait, move = costs.step(images, n, algorithm=algorithm)
            print(
                f"{kind}, {algorithm}: under 50% from {n:,} workers: of {1000 * step:.1f} ms a step "
                f"{fixed:.1f} are its fixed part and {slope * images:.1f} its images; all-reduce "
                f"{1000 * wait:.1f} of latency and {1000 * move:.1f} of bandwidth"
            )


def print_measured(found: dict[str, Any], batch: int) -> None:
    """Print what the two processes did."""
    seconds, base = found["seconds"], found["seconds"]["two independent loops"]
    images = dict.fromkeys(seconds, 2 * batch)
    images |= {"one worker, the other core idle": batch, "one worker, one image": 1}
    images["DDP, half the batch each"] = 2 * (batch // 2)
    print("| one thread each | images/s | step ms | of the independent loops |\n|---|---|---|---|")
    for name, times in seconds.items():
        share = median([images[name] * b / t for t, b in zip(times, base, strict=True)]) / (
            2 * batch
        )
        speed = images[name] / median(times)
        print(f"| {name} | {speed:.1f} | {1000 * median(times):.1f} | {share:.3f} |")
    pairs = zip(seconds["DDP"], seconds["DDP without all-reduce"], strict=True)
    extra = median([with_it / without - 1 for with_it, without in pairs])
    print(f"\nthe all-reduce adds {100 * extra:.1f}% to a step (median over the rounds)")
    buckets = ", ".join(f"{n:,}" for n in found["buckets"])
    print(f"gradients: {found['bytes']:,} bytes a step, in buckets of {buckets}")
    print(f"each of n workers sends 2(n-1)/n of that: {found['bytes']:,} for 2\n")
    print("| all-reduce by 2 over loopback, bytes | ms | GB/s |\n|---|---|---|")
    for size, taken in found["reduced"].items():
        print(f"| {int(size):,} | {1000 * taken:.3f} | {int(size) / taken / 1e9:.2f} |")


@click.command()
@click.argument("recipe", default="mnist_pixelcnn")
@option("--steps", default=8, type=COUNT, help="Steps of a turn.")
@option("--rounds", default=5, type=COUNT, help="Turns of each loop.")
@option("--step-ms", default=23.0, type=POSITIVE, help="Step of an assumed GPU.")
@option("--fixed-ms", default=5.0, type=POSITIVE, help="Its part for no images at all.")
@option("--gbit", default=25.0, type=POSITIVE, help="Network of a worker, Gbit/s.")
@option("--latency-us", default=20.0, type=POSITIVE, help="Of one message.")
@option("--global-batch", default=512, type=COUNT, help="For strong scaling.")
def main(recipe: str, steps: int, rounds: int, **model: float) -> None:
    """Measure 1 and 2 workers of a RECIPE, and print what many would do."""
    config = load_experiment(recipe, {"data.root": str(data_root())})
    prepared(config.data.name, data_root())
    batch, total = config.training.batch_size, int(model["global_batch"])
    if batch < 2:
        raise SystemExit(f"training.batch_size must be 2 or more, got {batch}")
    if model["fixed_ms"] >= model["step_ms"]:
        raise SystemExit(f"--fixed-ms must be less than --step-ms, got {model['fixed_ms']:g}")
    with tempfile.TemporaryDirectory(prefix="raypixel-scaling-") as name:
        arguments = (config, Path(name), steps, rounds)
        torch.multiprocessing.spawn(work, args=arguments, nprocs=2)
        found = json.loads((Path(name) / "found.json").read_text())
    load = os.getloadavg()[0]
    print(
        f"{recipe}: batch {batch} a worker, {config.training.precision}, load {load:.1f} at the end"
    )
    print_measured(found, batch)
    whole, one = (
        median(found["seconds"][name])
        for name in ("one worker, the other core idle", "one worker, one image")
    )
    slope = max(0.0, (whole - one) / (batch - 1))
    network = (tuple(found["buckets"]), model["gbit"] * 1e9 / 8, model["latency_us"] / 1e6)
    print(
        f"\nNetwork {model['gbit']:g} Gbit/s, {model['latency_us']:g} us a message; weak: batch {batch} a worker, "
        f"strong: global batch {total}"
    )
    print_costs(
        "One core of this machine", Costs(max(0.0, one - slope), slope, *network), batch, total
    )
    fixed, step = model["fixed_ms"] / 1000, model["step_ms"] / 1000
    gpu = Costs(fixed, (step - fixed) / batch, *network)
    print_costs(f"A GPU of {model['step_ms']:g} ms a step (assumed)", gpu, batch, total)


if __name__ == "__main__":
    main()
