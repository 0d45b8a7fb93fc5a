"""Load on the service over HTTP: throughput at saturation, and latency under Poisson arrivals beside static batching.

Everything runs on 127.0.0.1 in a Ray cluster of its own, which ends with the process. Static batching is what Ray Serve
offers by itself: `@serve.batch` collects requests and calls the sampler on them, and later ones wait for it to end.
"""

import argparse
import asyncio
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from torch import nn

from benchmarks.common import median, timed
from raypixel.checkpoint import ModelInfo, Snapshot, read_checkpoint, write_checkpoint
from raypixel.experiment import load_experiment
from raypixel.models import build_model
from raypixel.sampling import image_seeds, sample
from raypixel.serving.answers import NPZ, arrays
from raypixel.serving.launch import Launch, local_options
from raypixel.serving.settings import Settings
from raypixel.train.ray_cluster import cluster

SLOTS = 64
# images of a request, and how often it is asked for
MIXES = {"1 image": ([1], [1.0]), "1, 4 or 16": ([1, 4, 16], [0.7, 0.2, 0.1])}


def model_of(recipe: str) -> nn.Module:
    """Build a recipe's model for black and white MNIST pictures, untrained."""
    torch.manual_seed(0)
    config = load_experiment(recipe, {}).model
    return build_model(config, image_shape=(1, 28, 28), num_levels=2).eval()


@contextmanager
def checkpoint_of(recipe: str) -> Iterator[tuple[Path, nn.Module]]:
    """Write an untrained checkpoint of a recipe; give its folder and the model."""
    model = model_of(recipe)
    experiment = load_experiment(recipe, {}).model_dump(mode="json")
    info = ModelInfo(experiment, (1, 28, 28), 2, 0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / recipe
        write_checkpoint(path, Snapshot(model.state_dict(), {}, {"step": 1, "best": 1.0}), info)
        yield path, model


@contextmanager
def service(path: Path, *, slots: int = SLOTS) -> Iterator[str]:
    """Serve a checkpoint as `raypixel serve` does, with one replica; give its address."""
    root = str(Path(__file__).parents[1])  # workers import this module
    os.environ["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with cluster("local"):
        from raypixel.serving import app

        settings = Settings(models={path.name: str(path)}, num_slots=slots)
        app.start(Launch(settings, port=port, options=local_options(1)))
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            app.stop()


def add_static(path: Path) -> None:
    """Serve the same checkpoint at /static by static batching, beside the service."""
    from ray import serve
    from starlette.requests import Request
    from starlette.responses import Response

    @serve.deployment(max_ongoing_requests=10_000, ray_actor_options={"num_cpus": 0})
    class Static:
        def __init__(self, path: str) -> None:
            torch.set_num_threads(os.cpu_count() or 1)
            self._model = read_checkpoint(Path(path)).load_model().eval()

        @serve.batch(max_batch_size=SLOTS, batch_wait_timeout_s=0.05)
        async def _make(self, bodies: list[dict[str, Any]]) -> list[bytes]:
            seeds = [image_seeds(body["seed"], body["n"]) for body in bodies]
            flat = [seed for each in seeds for seed in each]
            x = await asyncio.to_thread(sample, self._model, flat, batch_size=SLOTS)
            return [arrays(images=part) for part in x.split([len(each) for each in seeds])]

        async def __call__(self, request: Request) -> Response:
            return Response(await self._make(await request.json()), media_type=NPZ)

    application = Static.bind(str(path))
    quiet = {"log_level": "ERROR", "enable_access_log": False}
    serve.run(application, name="static", route_prefix="/static", logging_config=quiet)


async def replay(url: str, times: list[float], sizes: list[int]) -> list[float]:
    """Send requests at given times, in seconds from now; return how long after its time each was answered."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    async with httpx.AsyncClient(limits=limits, timeout=300, trust_env=False) as client:
        started = time.perf_counter()

        async def ask(number: int) -> float:
            await asyncio.sleep(max(0.0, started + times[number] - time.perf_counter()))
            body = {"n": sizes[number], "seed": number}
            answer = await client.post(url, json=body, headers={"Accept": NPZ})
            answer.raise_for_status()
            return time.perf_counter() - started - times[number]

        return await asyncio.gather(*(ask(number) for number in range(len(times))))


def all_at_once(url: str, sizes: list[int]) -> float:
    """Return the seconds until all requests are answered that were sent at once."""
    return timed(lambda: asyncio.run(replay(url, [0.0] * len(sizes), sizes)))


def saturation(arguments: argparse.Namespace) -> None:
    """Print the service's speed over the sampler's, in turns."""
    with checkpoint_of(arguments.recipe) as (path, model), service(path) as url:
        url, sizes = f"{url}/v1/samples", [arguments.size] * (arguments.images // arguments.size)
        seeds = image_seeds(0, sum(sizes))
        sample(model, seeds[:SLOTS])
        all_at_once(url, sizes[:8])
        rounds = [
            (timed(lambda: sample(model, seeds, batch_size=SLOTS)), all_at_once(url, sizes))
            for _ in range(arguments.rounds)
        ]
        sampler, served = (median(list(times)) for times in zip(*rounds, strict=True))
        print(f"{len(seeds)} images in requests of {arguments.size}, {arguments.rounds} rounds")
        print(f"sampler at batch {SLOTS}  {len(seeds) / sampler:7.1f} images/s")
        print(f"service, {SLOTS} slots    {len(seeds) / served:7.1f} images/s")
        ratios = [a / b for a, b in rounds]
        print(f"share {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def poisson(arguments: argparse.Namespace) -> None:
    """Print latencies of the service and of static batching for the same arrivals, in turns."""
    with checkpoint_of(arguments.recipe) as (path, _), service(path, slots=arguments.slots) as url:
        add_static(path)
        urls = {"static batching": f"{url}/static", "slots": f"{url}/v1/samples"}
        random = np.random.default_rng(0)
        for mix, (values, weights) in MIXES.items():
            sizes = random.choice(values, size=20_000, p=weights).tolist()
            count = int(np.searchsorted(np.cumsum(sizes), 4 * SLOTS)) + 1
            for each in urls.values():
                all_at_once(each, sizes[:20])  # warm
            speeds = {
                name: sum(sizes[:count]) / all_at_once(each, sizes[:count])
                for name, each in urls.items()
            }
            rate = arguments.load * min(speeds.values()) / float(np.dot(values, weights))
            told = ", ".join(f"{name} {speed:.1f}" for name, speed in speeds.items())
            print(f"requests of {mix}: at once {told} images/s; {rate:.2f} requests/s arrive")
            waits: dict[str, list[float]] = {name: [] for name in urls}
            for _ in range(arguments.rounds):
                times = np.cumsum(random.exponential(1 / rate, size=20_000))
                times = times[times < arguments.seconds].tolist()
                asked = random.choice(values, size=len(times), p=weights).tolist()
                for name, each in urls.items():
                    waits[name] += asyncio.run(replay(each, times, asked))
            for name, found in waits.items():
                middle, high = np.percentile(found, [50, 95])
                print(f"  {name:16} {len(found)} answers, median {middle:.2f} s, p95 {high:.2f} s")


def add_load(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `saturation` and `poisson`."""
    parser = commands.add_parser("saturation", help="throughput over HTTP against the sampler")
    parser.add_argument("--recipe", default="mnist_pixelcnn")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--size", type=int, default=8, help="images of a request")
    parser.add_argument("--rounds", type=int, default=5)
    parser.set_defaults(run=saturation)
    parser = commands.add_parser("poisson", help="latency beside static batching")
    parser.add_argument("--recipe", default="mnist_pixelcnn")
    parser.add_argument("--slots", type=int, default=SLOTS, help="of the service")
    parser.add_argument("--load", type=float, default=0.7, help="share of the slower one's speed")
    parser.add_argument("--seconds", type=float, default=15.0, help="of arrivals, in a turn")
    parser.add_argument("--rounds", type=int, default=4, help="turns of each, for each mix")
    parser.set_defaults(run=poisson)
