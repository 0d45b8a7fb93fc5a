"""Checkpoints of small untrained models, and the application over them on a real socket, without Ray."""

import asyncio
import base64
import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
import uvicorn
from PIL import Image

from raypixel.checkpoint import ModelInfo, Snapshot, write_checkpoint
from raypixel.models import build_model, validate_model_config
from raypixel.serving.front import BoundedHeads
from raypixel.serving.http import create_app
from raypixel.serving.replica import Replica
from raypixel.serving.settings import Keys, Limits, Settings


def write_model(
    path: Path,
    *,
    image_shape: tuple[int, int, int] = (1, 8, 8),
    num_levels: int = 17,
    num_classes: int = 0,
    **options: Any,
) -> Path:
    """Write a checkpoint of an untrained model whose distributions are not flat."""
    model_options = {"kind": "pixelcnn", "hidden_size": 4, "num_layers": 1, "output_size": 8}
    config = validate_model_config(model_options | options)
    torch.manual_seed(0)
    model = build_model(
        config, image_shape=image_shape, num_levels=num_levels, num_classes=num_classes
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    experiment = {"model": config.model_dump(mode="json"), "data": {"name": "digits"}}
    info = ModelInfo(experiment, image_shape, num_levels, num_classes)
    write_checkpoint(path, Snapshot(model.state_dict(), {}, {"step": 1, "best": 1.0}), info)
    return path


def picture(x: np.ndarray, *, form: str = "PNG", mode: str | None = None) -> str:
    """Encode values of 0 to 255, (H, W) or (H, W, 3), as a picture in base64."""
    image = Image.fromarray(x.astype(np.uint8))
    buffer = io.BytesIO()
    (image if mode is None else image.convert(mode)).save(buffer, form, lossless=True)
    return base64.b64encode(buffer.getvalue()).decode()


def pixels(png: str) -> np.ndarray:
    """Decode a picture in base64."""
    return np.array(Image.open(io.BytesIO(base64.b64decode(png))))


class Service:
    """The application on a socket of 127.0.0.1, in a thread of its own.

    Attributes:
        url: Its address.
        replica: What it serves; to be touched in its own loop only, see `call`.
    """

    def __init__(self, settings: Settings, keys: Keys) -> None:
        self.url = ""
        self._ready = threading.Event()
        self._settings, self._keys = settings, keys
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        assert self._ready.wait(180)
        if self._error:
            raise self._error

    async def _run(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self.replica = Replica(self._settings)
        try:
            await self.replica.open()
            app = create_app(self.replica, keys=self._keys)
            config = uvicorn.Config(
                app, port=0, log_level="error", lifespan="off", http=BoundedHeads
            )
            server = uvicorn.Server(config)
            serving = asyncio.create_task(server.serve())
            while not server.started:
                await asyncio.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            self.url = f"http://127.0.0.1:{port}"
        except BaseException as error:
            self._error = error
            return
        finally:
            self._ready.set()
        await self._end.wait()
        server.should_exit = True
        await serving
        await self.replica.close()

    def call(self, function: Any) -> Any:
        """Run a coroutine function with the replica, in the service's loop."""
        return asyncio.run_coroutine_threadsafe(function(self.replica), self._loop).result(60)

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False, **options)

    def close(self) -> None:
        if self._error is None:
            self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(60)


@contextmanager
def serving(
    *, keys: tuple[str, ...] = (), limits: dict[str, Any] | None = None, **settings: Any
) -> Iterator[Service]:
    """Serve in this process."""
    service = Service(Settings(limits=Limits(**(limits or {})), **settings), Keys(keys))
    try:
        yield service
    finally:
        service.close()


def connect(service: Service) -> socket.socket:
    """Open a connection to the service."""
    host, port = service.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), 60)


def post(client, path, body, **headers):
    """Post JSON to a path below /v1."""
    return client.post(f"/v1/{path}", json=body, headers=headers)


def detail(response) -> str:
    """Return the sentence of an error."""
    assert set(response.json()) == {"detail"}
    return response.json()["detail"]


def npz(response) -> dict[str, np.ndarray]:
    """Return the arrays of an answer."""
    return dict(np.load(io.BytesIO(response.content), allow_pickle=False))


def wait_until(condition, seconds=60.0):
    """Assert that a condition comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
