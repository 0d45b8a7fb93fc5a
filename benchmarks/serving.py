"""Serving: what the engine and the service cost beside the sampler itself.

    python benchmarks/serving.py engine       throughput at saturation, and a small request's wait among large ones
    python benchmarks/serving.py saturation   throughput over HTTP
    python benchmarks/serving.py poisson      latency under Poisson arrivals beside static batching
    python benchmarks/serving.py soak         many clients, some of which leave or send nonsense, for minutes

Each subcommand is a function that adds its own options. The model is the recipe's with random weights: speed
does not depend on them. Competitors take turns, and medians are printed.
"""

import argparse
import asyncio
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.common import median, timed
from benchmarks.serving_load import add_load, model_of
from benchmarks.serving_soak import add_soak
from raypixel.sampling import Image, image_seeds, sample
from raypixel.serving.engine import Engine


async def engine_seconds(
    engine: Engine, seeds: list[int], *, streams_rows: bool, request_size: int = 7
) -> float:
    """Return the time of many requests that all wait at once."""
    started = time.perf_counter()
    jobs = [
        engine.submit(
            [Image(seed) for seed in seeds[k : k + request_size]], streams_rows=streams_rows
        )
        for k in range(0, len(seeds), request_size)
    ]
    for job in jobs:
        await job.result()
    return time.perf_counter() - started


async def small_seconds(engine: Engine) -> tuple[float, float]:
    """Return how long one image takes alone, and after 512 images have been asked for at once."""
    alone = await engine_seconds(engine, image_seeds(1, 1), streams_rows=False)
    large = engine.submit([Image(seed) for seed in image_seeds(2, 512)])
    await asyncio.sleep(0.5)
    among = await engine_seconds(engine, image_seeds(1, 1), streams_rows=False)
    large.cancel()
    return alone, among


async def engine_table(arguments: argparse.Namespace) -> None:
    """Print the engine's speed at 64 slots over the sampler's at batch 64, and a small request's latency."""
    model = model_of(arguments.recipe)
    engine = Engine(model, num_slots=64)
    await engine.start()
    seeds = image_seeds(0, arguments.images)
    sample(model, seeds[:64])
    wall: dict[str, list[float]] = {"sampler": [], "engine": [], "engine, streamed": []}
    cpu: dict[str, list[float]] = {name: [] for name in wall}
    for _ in range(arguments.rounds):
        for name in wall:
            used = time.process_time()
            if name == "sampler":
                seconds = timed(lambda: sample(model, seeds, batch_size=64))
            else:
                streams = name != "engine"
                seconds = await engine_seconds(engine, seeds, streams_rows=streams)
            wall[name].append(seconds)
            cpu[name].append(time.process_time() - used)
    print(f"{arguments.recipe}, {len(seeds)} images, {torch.get_num_threads()} threads")
    print(
        "share of the sampler's speed, by the clock, and by processor time where others use the machine:"
    )
    for name, values in wall.items():
        speed = len(seeds) / median(values)
        ratios = [
            median([a / b for a, b in zip(times["sampler"], times[name], strict=True)])
            for times in (wall, cpu)
        ]
        print(f"{name:18} {speed:7.1f} images/s {ratios[0]:6.2f} {ratios[1]:6.2f}", flush=True)
    alone, among = (
        median(list(each))
        for each in zip(*[await small_seconds(engine) for _ in range(5)], strict=True)
    )
    print(
        f"one image alone {1e3 * alone:.0f} ms; 0.5 s after a request for 512: {1e3 * among:.0f} ms"
    )
    await engine.close()


def add_engine(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `engine`."""
    parser = commands.add_parser("engine", help="throughput at saturation against the sampler")
    parser.add_argument("--recipe", default="mnist_pixelcnn")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.set_defaults(run=lambda arguments: asyncio.run(engine_table(arguments)))


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    add_engine(commands)
    add_load(commands)
    add_soak(commands)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
