"""Bounds on what a client may make Ray Serve's HTTP proxy hold before a request begins: the size and the time of its head.

The proxy's server, uvicorn on httptools, has neither: six heads of 150 MB each were held, before any key was asked for. So the
proxy is told a protocol of ours, the same with the two bounds. Ray's HAProxy front end would bound them too, but is another
program to run, and uvicorn's other protocol, h11, bounds the size only.
"""

import asyncio
from typing import Any

from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEAD_BYTES = 64 << 10
SECONDS_TO_HEAD = 30.0


class BoundedHeads(HttpToolsProtocol):
    """Close a connection of which a head, or what may follow a body, is too long, or whose head does not come."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._held_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._await_head()

    def on_message_begin(self) -> None:
        """Begin to wait for the rest of a head."""
        super().on_message_begin()
        self._await_head()

    def on_headers_complete(self) -> None:
        """Wait no more; what was held is handed on."""
        self._held_bytes = 0
        self._stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Hand on what was held."""
        self._held_bytes = 0
        super().on_body(body)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what comes and is not handed on."""
        self._held_bytes += len(data)
        super().data_received(data)
        if self._held_bytes > MOST_HEAD_BYTES:
            self._refuse("431 Request Header Fields Too Large")

    def _await_head(self) -> None:
        self._stop_waiting()
        self._deadline = self.loop.call_later(SECONDS_TO_HEAD, self._refuse, "408 Request Timeout")

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()

    def _refuse(self, status: str) -> None:
        if not self.transport.is_closing():
            head = f"HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            self.transport.write(head.encode())
            self.transport.close()


def bound_heads() -> list[Any]:
    """Let servers of this process bound heads; return the middlewares that Ray asks for, none.

    Ray's proxy calls it where RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names it, before its server starts.
    """
    HTTP_PROTOCOLS["auto"] = f"{__name__}:{BoundedHeads.__name__}"
    return []
