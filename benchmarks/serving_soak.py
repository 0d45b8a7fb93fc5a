"""A soak of the service: clients ask all they can for minutes; some leave midway, some send what must be refused."""

import argparse
import asyncio
import base64
import io
import random
import statistics
import time
from collections import Counter

import httpx
import psutil
from PIL import Image

from benchmarks.serving_load import checkpoint_of, service

# every tenth client leaves, every tenth other one sends these
LEAVES, REFUSED = 0, 1
PAUSE_S = 0.2


def picture(chance: random.Random) -> str:
    """Return a black and white picture in base64."""
    image = Image.frombytes("1", (28, 28), chance.randbytes(4 * 28)).convert("L")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def good_request(chance: random.Random) -> tuple[str, dict[str, object]]:
    """Return a path and a body that must be answered."""
    n, seed, pictures = chance.randint(1, 8), chance.randrange(1000), [picture(chance)]
    return chance.choice(
        [
            ("/v1/samples", {"n": n, "seed": seed}),
            ("/v1/samples", {"n": n, "seed": seed, "stream": True}),
            ("/v1/completions", {"images": pictures, "n": n, "seed": seed}),
            ("/v1/scores", {"images": pictures * n, "per_pixel": True}),
        ]
    )


def bad_request(chance: random.Random) -> tuple[str, bytes]:
    """Return a path and a body that must be refused."""
    whole = picture(chance)
    return chance.choice(
        [
            ("/v1/samples", b'{"n": '),
            ("/v1/samples", b'{"n": 0}'),
            ("/v1/samples", b'{"n": 100000}'),
            ("/v1/samples", b'{"model": "nobody"}'),
            ("/v1/scores", b'{"images": ["%s"]}' % whole[: len(whole) // 2].encode()),
            ("/v1/completions", b'{"images": ["%s"], "observed": "rows:99"}' % whole.encode()),
        ]
    )


class Soak:
    """What the clients have seen.

    Attributes:
        answers: Number of answers by kind of client and status.
        lost: What became of requests that have no whole answer though their client stayed.
    """

    def __init__(self, url: str, seconds: float) -> None:
        self.answers: Counter[tuple[str, int]] = Counter()
        self.lost: list[str] = []
        self._url, self._until = url, time.monotonic() + seconds

    async def client(self, number: int) -> None:
        """Be a client until the time is over; what was sent is waited for."""
        chance = random.Random(number)
        kind = number % 10
        async with httpx.AsyncClient(base_url=self._url, timeout=120, trust_env=False) as client:
            while time.monotonic() < self._until:
                try:
                    if kind == LEAVES:
                        await self._leave(client, chance)
                    elif kind == REFUSED:
                        path, content = bad_request(chance)
                        headers = {"content-type": "application/json"}
                        answer = await client.post(path, content=content, headers=headers)
                        self.answers["refused", answer.status_code] += 1
                        await asyncio.sleep(PAUSE_S)
                    else:
                        await self._ask(client, chance)
                except httpx.HTTPError as error:
                    self.lost.append(f"client {number}: {error!r}")

    async def _ask(self, client: httpx.AsyncClient, chance: random.Random) -> None:
        path, body = good_request(chance)
        answer = await client.post(path, json=body)
        self.answers["stays", answer.status_code] += 1
        if body.get("stream") and "event: done" not in answer.text:
            self.lost.append(f"a stream without end: {answer.text[-200:]}")

    async def _leave(self, client: httpx.AsyncClient, chance: random.Random) -> None:
        """Leave while images are being made: in the midst of a stream, or before the answer."""
        body = {"n": chance.randint(1, 16), "stream": chance.random() < 0.5}
        try:
            async with (
                asyncio.timeout(chance.uniform(0.05, 0.5)),
                client.stream("POST", "/v1/samples", json=body) as answer,
            ):
                async for _ in answer.aiter_bytes():
                    pass
            self.answers["leaves, but was faster", answer.status_code] += 1
        except TimeoutError:
            self.answers["leaves", 0] += 1
        await asyncio.sleep(PAUSE_S)


def replica() -> psutil.Process:
    """Return the replica among the processes that this one has started."""
    for process in psutil.Process().children(recursive=True):
        if "ServeReplica" in " ".join(process.cmdline()):
            return process
    raise SystemExit("no replica runs")


def gauge(url: str, name: str) -> float:
    """Return a gauge of /metrics."""
    lines = httpx.get(f"{url}/metrics", trust_env=False).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"raypixel_{name}{{"))


async def run_soak(url: str, seconds: float, num_clients: int) -> tuple[Soak, list[float]]:
    """Let all clients run; return what they saw, and the replica's resident memory each second, in MiB."""
    soak, process = Soak(url, seconds), replica()
    memory: list[float] = []

    async def watch() -> None:
        while True:
            memory.append(process.memory_info().rss / 2**20)
            await asyncio.sleep(1.0)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(soak.client(number) for number in range(num_clients)))
    watching.cancel()
    return soak, memory


def soak_table(arguments: argparse.Namespace) -> None:
    """Print what a soak showed."""
    with checkpoint_of(arguments.recipe) as (path, _), service(path) as url:
        soak, memory = asyncio.run(run_soak(url, arguments.seconds, arguments.clients))
        time.sleep(1.0)  # the last that left
        left = {name: gauge(url, name) for name in ("active_slots", "queued_images")}
    print(f"{arguments.clients} clients, {arguments.seconds:g} s")
    for (kind, status), count in sorted(soak.answers.items()):
        print(f"  {kind:22} {status or 'no answer':9} {count}")
    failed = sum(count for (_, status), count in soak.answers.items() if status >= 500)
    print(f"5xx {failed}, lost {len(soak.lost)} {soak.lost[:3] or ''}")
    third = max(1, len(memory) // 3)
    first, last = (statistics.median(part) for part in (memory[:third], memory[-third:]))
    print(f"memory of the replica, MiB: {first:.0f} in the first third, {last:.0f} in the last")
    print(f"  each tenth: {' '.join(f'{value:.0f}' for value in memory[:: max(1, third // 3)])}")
    print(f"at the end {left['active_slots']:g} active slots, {left['queued_images']:g} queued")


def add_soak(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `soak`."""
    parser = commands.add_parser("soak", help="many clients for minutes")
    parser.add_argument("--recipe", default="mnist_pixelcnn")
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--clients", type=int, default=32)
    parser.set_defaults(run=soak_table)
