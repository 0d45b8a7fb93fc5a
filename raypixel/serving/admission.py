"""What stands before every request: keys, who asks from where, draining, the size of bodies, and counting."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raypixel.serving.answers import RETRY_DRAINING_S, Problem
from raypixel.serving.metrics import Metrics
from raypixel.serving.replica import Replica
from raypixel.serving.requests import BODIES
from raypixel.serving.settings import Keys, is_loopback

# paths that are answered with a key only, where keys are required
_GUARDED = ("/v1/", "/metrics")
# those that metrics name also where they are refused; a path of the client's would stay there for ever
_NAMED = {*BODIES, "/v1/models", "/metrics"}
_BODY_TIMEOUT_S = 60.0
# how much of a body that is too large is read and thrown away, so that the client hears the answer
_DISCARDED = 8

_log = logging.getLogger(__name__)


class Admission:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, *, replica: Replica, keys: Keys, metrics: Metrics) -> None:
        """Stand before an application.

        Args:
            app: The application.
            replica: Told of each request, so that it knows when all are answered.
            keys: Who may enter.
            metrics: Told of each answer.
        """
        self._app, self._replica, self._keys, self._metrics = app, replica, keys, metrics
        self._name = (b"x-replica", replica.name.encode())

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
            await problem.to_response()(scope, receive, note)
        except Exception:
            # a bug of ours: the client gets an answer all the same, and the log says why
            if status:  # the answer has begun
                raise
            _log.exception("a request to %s failed", scope["path"])
            failure = Problem(500, "the server failed at this request; its log says why")
            await failure.to_response()(scope, receive, note)
        finally:
            self._metrics.note(_template(scope), status or 499, time.monotonic() - started)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, is_work = scope["path"], scope["method"] == "POST"
        headers = Headers(scope=scope)
        self._check_origin(headers)
        if path.startswith(_GUARDED) and not self._keys.knows(headers):
            given = any(name in headers for name in ("authorization", "x-api-key"))
            text = "the API key is unknown" if given else "an API key must be given"
            raise Problem(401, f"{text}: send the header `Authorization: Bearer KEY`")
        if not is_work:
            await self._app(scope, receive, send)
            return
        self._check_open()
        body = await _read_body(headers, receive, self._replica.settings.limits.max_body_bytes)
        if body is None:
            return
        self._check_open()  # whoever sends slowly is not waited for
        self._replica.enter()
        try:
            await self._app(scope, _replay(body, receive), send)
        finally:
            self._replica.leave()

    def _check_open(self) -> None:
        if not self._replica.is_ready or self._replica.is_draining:
            state = "the service is about to end" if self._replica.is_ready else "not ready yet"
            raise Problem(503, f"{state}: ask again later", retry_after_s=RETRY_DRAINING_S)

    def _check_origin(self, headers: Mapping[str, str]) -> None:
        """Refuse what another site's page asks of a browser: by its own name for this machine, or across origins.

        Where keys are required that page has none, and a proxy may give the service any name.
        """
        allowed = self._replica.settings.allowed_hosts
        if self._keys and not allowed:
            return
        host, origin = headers.get("host"), headers.get("origin")
        if host is not None and not _is_allowed(host, allowed):
            raise Problem(403, f"Host must be this machine or one of allowed_hosts, got {host!r}")
        if origin is not None and origin.partition("://")[2] != host:
            raise Problem(403, f"Origin must be that of the service's own page, got {origin!r}")


def _is_allowed(host: str, allowed: Sequence[str]) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name in allowed or (not allowed and is_loopback(name))


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
    return scope["path"] if scope["path"] in _NAMED else "other"
