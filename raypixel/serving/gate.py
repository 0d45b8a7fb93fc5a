"""The gate in front of every request: keys, draining, the size of bodies, and counting."""

import asyncio
import json
import logging
import math
import time
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raypixel.serving.hosts import Hosts
from raypixel.serving.metrics import Metrics
from raypixel.serving.security import Keys
from raypixel.serving.work import RETRY_DRAINING_S, Problem

# paths that are answered with a key only, where keys are required
_GUARDED = ("/v1/", "/metrics")
_BODY_TIMEOUT_S = 60.0
# how much of a body that is too large is read and thrown away, so that the client hears the answer
_DISCARDED = 8

_log = logging.getLogger(__name__)


class Gate:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, *, hosts: Hosts, keys: Keys, metrics: Metrics) -> None:
        """Stand before an application.

        Args:
            app: The application.
            hosts: Told of each request, so that they know when all are answered.
            keys: Who may enter.
            metrics: Told of each answer.
        """
        self._app, self._hosts, self._keys, self._metrics = app, hosts, keys, metrics
        self._name = (b"x-replica", metrics.replica.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 0

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), self._name]
            await send(message)

        try:
            await self._let_in(scope, receive, note)
        except Problem as problem:
            await answer(note, problem)
        except Exception:
            # a bug of ours: the client gets an answer all the same, and the log says why
            if status:  # the answer has begun
                raise
            _log.exception("a request to %s failed", scope["path"])
            await answer(note, Problem(500, "the server failed at this request; its log says why"))
        finally:
            self._metrics.note(_template(scope), status or 499, time.monotonic() - started)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, is_work = scope["path"], scope["method"] == "POST"
        headers = Headers(scope=scope)
        if path.startswith(_GUARDED) and not self._keys.knows(headers):
            given = any(name in headers for name in ("authorization", "x-api-key"))
            text = "the API key is unknown" if given else "an API key must be given"
            raise Problem(401, f"{text}: send the header `Authorization: Bearer KEY`")
        if not is_work:
            await self._app(scope, receive, send)
            return
        if not self._hosts.is_ready or self._hosts.is_draining:
            state = "the service is about to end" if self._hosts.is_ready else "not ready yet"
            raise Problem(503, f"{state}: ask again later", retry_after_s=RETRY_DRAINING_S)
        self._hosts.enter()
        try:
            limit = self._hosts.settings.limits.max_body_bytes
            body = await _read_body(headers, receive, limit)
            if body is not None:
                await self._app(scope, _replay(body, receive), send)
        finally:
            self._hosts.leave()


async def answer(send: Send, problem: Problem) -> None:
    """Answer a problem as `{"detail": ...}`."""
    body = json.dumps({"detail": problem.detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    headers += [(name.lower().encode(), value.encode()) for name, value in extra_headers(problem)]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def extra_headers(problem: Problem) -> list[tuple[str, str]]:
    """Return the headers that go with a problem's status."""
    headers = []
    if problem.retry_after_s is not None:
        headers.append(("Retry-After", str(max(1, math.ceil(problem.retry_after_s)))))
    if problem.status == 401:
        headers.append(("WWW-Authenticate", "Bearer"))
    return headers


async def _read_body(headers: Mapping[str, str], receive: Receive, limit: int) -> bytes | None:
    """Return the body, or None if the client has gone.

    Raises:
        Problem: It is too large, or does not come.
    """
    chunks: list[bytes] = []
    size, is_over = 0, False
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        is_over = True
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                chunk = message.get("body", b"")
                size += len(chunk)
                is_over = is_over or size > limit
                if is_over:
                    chunks.clear()
                else:
                    chunks.append(chunk)
                if not message.get("more_body") or size > _DISCARDED * limit:
                    break
    except TimeoutError:
        raise Problem(408, f"the body must arrive within {_BODY_TIMEOUT_S:g} s") from None
    if is_over:
        got = declared if declared.isdecimal() else f"{size} or more"
        raise Problem(413, f"the body must have at most {limit} bytes, got {got}")
    return b"".join(chunks)


def _replay(body: bytes, receive: Receive) -> Receive:
    is_given = False

    async def again() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _template(scope: Scope) -> str:
    """Return a request's path for metrics, from a bounded set."""
    route = scope.get("route")
    path = getattr(route, "path", None)
    if path is not None:
        return str(path)
    return (
        scope["path"] if scope["path"].startswith("/v1/") and len(scope["path"]) < 20 else "other"
    )
