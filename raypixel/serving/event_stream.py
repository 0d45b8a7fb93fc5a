"""A stream of server-sent events with the rows as they are written, and waiting for work while the client is there."""

import asyncio
import base64
import json
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from raypixel.serving.answers import ImagesAnswer, Problem, problems
from raypixel.serving.engine import Job, WrittenRows
from raypixel.serving.replica import ModelAnswer
from raypixel.serving.requests import ImagesRequest
from raypixel.serving.settings import Limits

_log = logging.getLogger(__name__)

KEEP_ALIVE_S = 10.0


class ClientGone(Exception):
    """The client has closed the connection: nobody waits for an answer."""


async def while_connected(
    receive: Receive, work: Awaitable[Any], timeout_s: float | None = None
) -> Any:
    """Return what work gives; cancel it when the client goes, or when the time is over.

    Raises:
        ClientGone: The client has gone.
        TimeoutError: The time is over.
    """

    async def until_gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(until_gone())
    try:
        await asyncio.wait({working, gone}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone if gone.done() else TimeoutError
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


class EventStream(Response):
    """Answer with events while a job is done; a client that goes cancels it."""

    media_type = "text/event-stream"

    def __init__(
        self,
        request: ImagesRequest,
        model: ModelAnswer,
        job: Job,
        *,
        limits: Limits,
        end: Callable[[], Awaitable[None]],
    ) -> None:
        """Describe the answer.

        Args:
            request: What was asked for.
            model: Which model makes it.
            job: Makes its images.
            limits: How long it may take.
            end: Called at the end, whatever it is.
        """
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._request, self._model, self._job = request, model, job
        self._limits, self._end = limits, end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        del scope
        try:
            with suppress(ClientGone):
                await while_connected(receive, self._send_all(send))
        finally:
            self._job.cancel()
            await self._end()

    async def _send_all(self, send: Send) -> None:
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(head)

        async def write(text: str, *, more: bool = True) -> None:
            message = {"type": "http.response.body", "body": text.encode(), "more_body": more}
            await send(message)

        request, model, images = self._request, self._model, self._job.images
        start = {
            "model": model.name,
            "seed": request.seed,
            "num_images": len(images),
            "image_shape": model.image_shape,
            "num_levels": model.num_levels,
        }
        await write(_event("start", start))
        try:
            with problems(self._limits):
                await self._send_rows(write)
                x = await self._job.result()
            last = await asyncio.to_thread(
                lambda: _event("done", ImagesAnswer.of(x, model, request, images).model_dump())
            )
        except Problem as problem:
            last = _event("error", {"status": problem.status, "detail": problem.detail})
        except Exception:  # the answer has begun and can only end with a word; the log says why
            _log.exception("a stream failed")
            last = _event("error", {"status": 500, "detail": "the images could not be made"})
        await write(last, more=False)

    async def _send_rows(self, write: Callable[[str], Awaitable[None]]) -> None:
        """Send rows as they come; those that came meanwhile go together."""
        ready: list[str] = []
        news = asyncio.Event()

        async def gather() -> None:
            try:
                async for event in self._job.events():
                    if isinstance(event, WrittenRows):
                        ready.append(_event("rows", _rows(event)))
                        news.set()
            finally:
                news.set()

        gathering = asyncio.ensure_future(gather())
        deadline = time.monotonic() + self._limits.timeout_s
        try:
            while not (gathering.done() and not ready):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                try:
                    async with asyncio.timeout(min(left, KEEP_ALIVE_S)):
                        await news.wait()
                except TimeoutError:
                    await write(": still here\n\n")
                    continue
                news.clear()
                text = "".join(ready)
                ready.clear()
                if text:
                    await write(text)
                await asyncio.sleep(0)  # rows that are ready now go together
                if gathering.done():
                    news.set()
            gathering.result()
        finally:
            gathering.cancel()
            await asyncio.gather(gathering, return_exceptions=True)


def _rows(rows: WrittenRows) -> dict[str, Any]:
    levels = rows.levels.contiguous().numpy().tobytes()
    return {
        "image": rows.image,
        "row": rows.row,
        "num_rows": rows.levels.shape[1],
        "levels": base64.b64encode(levels).decode(),
    }


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
