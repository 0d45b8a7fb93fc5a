"""What a replica serves: models, each with its engine; loaded when asked for, the longest unused makes room."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from raypixel.checkpoint import Checkpoint
from raypixel.errors import ServingError, did_you_mean
from raypixel.evaluation import choose_device
from raypixel.runs import find_checkpoint
from raypixel.serving.engine import Engine, QueueFull
from raypixel.serving.settings import Settings


class UnknownModel(ServingError):
    """Report a name that no model is served under."""


class ModelAnswer(BaseModel):
    """What is told of a model."""

    name: str
    kind: str
    image_shape: list[int]
    num_levels: int
    num_classes: int
    num_parameters: int
    data: str
    is_default: bool


@dataclass(eq=False)
class ServedModel:
    """A model that is served.

    Attributes:
        checkpoint: Where it comes from.
        answer: What is told of it.
        engine: Makes its images; None while it is not in memory.
        num_users: Requests that it works for.
        used_at: When a request last came or went.
    """

    checkpoint: Checkpoint
    answer: ModelAnswer
    engine: Engine | None = None
    num_users: int = 0
    used_at: float = 0.0

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.checkpoint.info.image_shape

    @property
    def data_options(self) -> Mapping[str, Any]:
        """The training's data options."""
        options: Mapping[str, Any] = self.checkpoint.info.experiment["data"]
        return options


class Replica:
    """A process that serves models. All methods belong to one event loop.

    Attributes:
        settings: What is served.
        name: What answers and metrics call it.
        models: Each model by name; complete once opened.
        is_ready: Opened, and not closing.
        is_draining: What was accepted is finished, nothing new is taken.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        name: str = "0",
        fetch: Callable[[str], Path] | None = None,
    ) -> None:
        """Describe a replica; `open` loads its models.

        Args:
            settings: What is served.
            name: What answers and metrics call it.
            fetch: Gives the local folder of a `models:/` URI.
        """
        self.settings = settings
        self.name = name
        self.models: dict[str, ServedModel] = {}
        self.is_ready = False
        self.is_draining = False
        self._fetch = fetch
        self._loading: dict[str, asyncio.Task[Engine]] = {}
        self._one_at_a_time = asyncio.Lock()
        self._num_requests = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def engines(self) -> list[tuple[str, Engine]]:
        """Return the name and the engine of each model in memory."""
        return [(name, model.engine) for name, model in self.models.items() if model.engine]

    async def open(self) -> None:
        """Read every checkpoint, and load as many models as are kept.

        Raises:
            RaypixelError: A checkpoint is missing or damaged, or cannot be fetched.
        """
        for number, (name, source) in enumerate(self.settings.models.items()):
            self.models[name] = await asyncio.to_thread(self._read, name, source)
            if number < self.settings.max_loaded_models:
                await self._start(name)
        self.is_ready = True

    @asynccontextmanager
    async def use(self, name: str | None) -> AsyncIterator[tuple[ServedModel, Engine]]:
        """Give a model and its engine for the time of a request; it stays in memory meanwhile.

        Raises:
            UnknownModel: No model is served under this name.
            QueueFull: It is not in memory, and all that are have work to do.
        """
        if name is None:
            name = next(iter(self.models))
        if name not in self.models:
            known = ", ".join(self.models)
            hint = did_you_mean(name, self.models)
            raise UnknownModel(f"model must be one of {known}, got {name!r}{hint}")
        model = self.models[name]
        while (engine := model.engine) is None:
            if name not in self._loading:
                self._loading[name] = asyncio.create_task(self._load(name))
            await asyncio.shield(self._loading[name])
        model.num_users += 1
        try:
            yield model, engine
        finally:
            model.num_users -= 1
            model.used_at = time.monotonic()

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
        for name, engine in self.engines():
            await engine.close(drain=False)
            self.models[name].engine = None

    def check_health(self) -> None:
        """Raise if an engine no longer works."""
        for _, engine in self.engines():
            engine.check_health()

    def remaining_sub_pixels(self) -> int:
        """Return the sub-pixels that accepted requests still wait for."""
        return sum(engine.stats.remaining_sub_pixels for _, engine in self.engines())

    def _read(self, name: str, source: str) -> ServedModel:
        path: str | Path = source
        if source.startswith("models:/"):
            if self._fetch is None:
                raise ServingError(f"model must be a checkpoint's path, got {source!r}")
            path = self._fetch(source)
        checkpoint = find_checkpoint(path)
        info, model = checkpoint.info, checkpoint.load_model()
        answer = ModelAnswer(
            name=name,
            kind=info.experiment["model"]["kind"],
            image_shape=list(info.image_shape),
            num_levels=info.num_levels,
            num_classes=model.num_classes,
            num_parameters=sum(p.numel() for p in model.parameters()),
            data=str(info.experiment["data"]["name"]),
            is_default=not self.models,
        )
        return ServedModel(checkpoint, answer)

    async def _load(self, name: str) -> Engine:
        try:
            async with self._one_at_a_time:
                while len(self.engines()) >= self.settings.max_loaded_models:
                    await self._evict()
                return await self._start(name)
        finally:
            del self._loading[name]

    async def _evict(self) -> None:
        """End the engine of the longest unused model."""
        idle = [model for model in self.models.values() if model.engine and not model.num_users]
        if not idle:
            raise QueueFull(5.0)
        oldest = min(idle, key=lambda model: model.used_at)
        engine, oldest.engine = oldest.engine, None
        assert engine is not None
        await engine.close(drain=False)

    async def _start(self, name: str) -> Engine:
        model = self.models[name]
        device = choose_device(self.settings.device)
        module = await asyncio.to_thread(model.checkpoint.load_model, device)
        engine = Engine(
            module,
            num_slots=self.settings.num_slots,
            max_queued_images=self.settings.limits.max_queued_images,
        )
        await engine.start()
        model.engine, model.used_at = engine, time.monotonic()
        return engine
