"""Hosts: the models that a process serves, each with its engine; loaded when asked for, the longest unused makes room."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypixel.checkpoint import Checkpoint
from raypixel.errors import ServingError, did_you_mean
from raypixel.jobs.evaluate import resolve_checkpoint
from raypixel.jobs.worker import choose_device
from raypixel.models import PixelModel
from raypixel.serving.engine import Engine, QueueFull
from raypixel.serving.settings import Settings


class UnknownModel(ServingError):
    """Report a name that no model is served under."""


@dataclass(frozen=True)
class Card:
    """What is told of a model.

    Attributes:
        name: What it is served as.
        kind: Its architecture.
        image_shape: (C, H, W).
        num_levels: K.
        num_classes: 0 for a model that takes no class.
        num_parameters: Weights.
        data: Name of the data set that it was trained on.
        data_options: The training's data options.
        is_default: It answers where a request names no model.
    """

    name: str
    kind: str
    image_shape: tuple[int, int, int]
    num_levels: int
    num_classes: int
    num_parameters: int
    data: str
    data_options: Mapping[str, Any]
    is_default: bool


@dataclass(eq=False)
class Host:
    """A model in memory.

    Attributes:
        card: What is told of it.
        engine: Makes its images.
        num_users: Requests that it works for.
        used_at: When a request last came or went.
    """

    card: Card
    engine: Engine
    num_users: int = 0
    used_at: float = 0.0


class Hosts:
    """The models of a process. All methods belong to one event loop.

    Attributes:
        settings: What is served.
        cards: What is told of each model, by name; complete once opened.
        loaded: The models in memory, by name.
        is_ready: Opened, and not closing.
        is_draining: What was accepted is finished, nothing new is taken.
    """

    def __init__(self, settings: Settings, *, fetch: Callable[[str], Path] | None = None) -> None:
        """Describe hosts; `open` loads them.

        Args:
            settings: What is served.
            fetch: Gives the local folder of a `models:/` URI.
        """
        self.settings = settings
        self.cards: dict[str, Card] = {}
        self.loaded: dict[str, Host] = {}
        self.is_ready = False
        self.is_draining = False
        self._fetch = fetch
        self._checkpoints: dict[str, Checkpoint] = {}
        self._loading: dict[str, asyncio.Task[Host]] = {}
        self._one_at_a_time = asyncio.Lock()
        self._num_requests = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def open(self) -> None:
        """Read every checkpoint, and load as many models as are kept.

        Raises:
            RaypixelError: A checkpoint is missing or damaged, or cannot be fetched.
        """
        for number, (name, source) in enumerate(self.settings.models.items()):
            checkpoint = await asyncio.to_thread(self._resolve, source)
            self._checkpoints[name] = checkpoint
            model = await asyncio.to_thread(checkpoint.load_model)
            self.cards[name] = _card(name, checkpoint, model, is_default=number == 0)
            if number < self.settings.max_loaded_models:
                await self._start(name)
        self.is_ready = True

    @asynccontextmanager
    async def use(self, name: str | None) -> AsyncIterator[Host]:
        """Give a model for the time of a request; it stays in memory meanwhile.

        Raises:
            UnknownModel: No model is served under this name.
            QueueFull: It is not in memory, and all that are have work to do.
        """
        if name is None:
            name = next(iter(self.cards))
        if name not in self.cards:
            known = ", ".join(self.cards)
            hint = did_you_mean(name, self.cards)
            raise UnknownModel(f"model must be one of {known}, got {name!r}{hint}")
        host = self.loaded.get(name)
        while host is None:
            if name not in self._loading:
                self._loading[name] = asyncio.create_task(self._load(name))
            await asyncio.shield(self._loading[name])
            host = self.loaded.get(name)
        host.num_users += 1
        try:
            yield host
        finally:
            host.num_users -= 1
            host.used_at = time.monotonic()

    def enter(self) -> None:
        """Count a request that was accepted."""
        self._num_requests += 1
        self._idle.clear()

    def leave(self) -> None:
        """Count a request that is answered."""
        self._num_requests -= 1
        if not self._num_requests:
            self._idle.set()

    async def drain(self) -> None:
        """Take nothing new, and wait until what was accepted is answered."""
        self.is_draining = True
        await self._idle.wait()

    async def close(self) -> None:
        """End every engine; what is under way is cancelled."""
        self.is_draining = True
        self.is_ready = False
        for host in self.loaded.values():
            await host.engine.close(drain=False)
        self.loaded.clear()

    def check_health(self) -> None:
        """Raise if an engine no longer works."""
        for host in self.loaded.values():
            host.engine.check_health()

    def remaining_sub_pixels(self) -> int:
        """Return the sub-pixels that accepted requests still wait for."""
        return sum(host.engine.stats.remaining_sub_pixels for host in self.loaded.values())

    def _resolve(self, source: str) -> Checkpoint:
        if not source.startswith("models:/"):
            return resolve_checkpoint(source)
        if self._fetch is None:
            raise ServingError(f"model must be a checkpoint's path, got {source!r}")
        return resolve_checkpoint(self._fetch(source))

    async def _load(self, name: str) -> Host:
        try:
            async with self._one_at_a_time:
                while len(self.loaded) >= self.settings.max_loaded_models:
                    await self._evict()
                return await self._start(name)
        finally:
            del self._loading[name]

    async def _evict(self) -> None:
        idle = [host for host in self.loaded.values() if not host.num_users]
        if not idle:
            raise QueueFull(5.0)
        oldest = min(idle, key=lambda host: host.used_at)
        del self.loaded[oldest.card.name]
        await oldest.engine.close(drain=False)

    async def _start(self, name: str) -> Host:
        device = choose_device(self.settings.device)
        model = await asyncio.to_thread(self._checkpoints[name].load_model, device)
        engine = Engine(
            model,
            num_slots=self.settings.num_slots,
            max_queued_images=self.settings.limits.max_queued_images,
        )
        await engine.start()
        host = self.loaded[name] = Host(self.cards[name], engine, used_at=time.monotonic())
        return host


def _card(name: str, checkpoint: Checkpoint, model: PixelModel, *, is_default: bool) -> Card:
    info = checkpoint.info
    data = info.experiment["data"]
    return Card(
        name=name,
        kind=info.experiment["model"]["kind"],
        image_shape=info.image_shape,
        num_levels=info.num_levels,
        num_classes=model.num_classes,
        num_parameters=sum(p.numel() for p in model.parameters()),
        data=str(data["name"]),
        data_options=data,
        is_default=is_default,
    )
