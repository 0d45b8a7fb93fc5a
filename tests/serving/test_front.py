"""What a client may make the server hold before its request begins."""

import socket
import threading

import psutil
import pytest
from uvicorn.config import HTTP_PROTOCOLS, Config

from raypixel.serving import front
from tests.serving.service import connect

HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


def answer(connection: socket.socket) -> bytes:
    """Read to the end of the connection."""
    received = b""
    while chunk := connection.recv(1 << 16):
        received += chunk
    return received


def send_all(connection: socket.socket, parts) -> None:
    try:
        for part in parts:
            connection.sendall(part)
    except OSError:
        return


@pytest.mark.parametrize(
    "parts",
    [
        [HEAD + b"X-Long: ", *[b"a" * 1_000_000] * 20],
        [HEAD, *[b"X-%d: a\r\n" % number * 1000 for number in range(1000)]],
        [b"GET /", *[b"a" * 1_000_000] * 20],
        [
            b"POST /v1/samples HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ",
            *[b"a" * 1_000_000] * 20,
        ],
    ],
    ids=["one header", "many headers", "the path", "a trailer"],
)
def test_a_head_without_end_is_refused_before_it_takes_memory(service, parts):
    memory = psutil.Process().memory_info
    with service.client() as client:
        client.get("/healthz")
    before = memory().rss
    connections = [connect(service) for _ in range(6)]
    threads = [threading.Thread(target=send_all, args=(each, parts)) for each in connections]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    # six clients with 20 MB each; what they send is of this process too, 20 MB once
    assert memory().rss - before < 60_000_000
    for connection in connections:
        connection.close()


def test_a_head_of_the_usual_size_is_taken_also_in_pieces(service):
    with connect(service) as connection:
        for _ in range(3):  # the same connection
            for part in (HEAD[:9], HEAD[9:], b"X: " + b"a" * 30_000, b"a" * 20_000, b"\r\n\r\n"):
                connection.sendall(part)
            received = connection.recv(1 << 16)
            while not received.endswith(b"}"):
                received += connection.recv(1 << 16)
            assert received.startswith(b"HTTP/1.1 200")
        connection.sendall(HEAD + b"X: " + b"a" * (front.MOST_HEAD_BYTES + 1))
        assert answer(connection).startswith(b"HTTP/1.1 431")


def test_a_head_that_does_not_come_ends_the_connection(service, monkeypatch):
    monkeypatch.setattr(front, "SECONDS_TO_HEAD", 0.2)
    for begun in (b"", HEAD, HEAD + b"\r\n" + HEAD):
        with connect(service) as connection:
            connection.sendall(begun)
            assert b"HTTP/1.1 408" in answer(connection)


def test_rays_proxy_takes_the_protocol_by_the_name_that_uvicorn_has(monkeypatch):
    monkeypatch.setitem(HTTP_PROTOCOLS, "auto", HTTP_PROTOCOLS["auto"])
    assert front.bound_heads() == []
    config = Config(lambda: None, log_config=None)  # as Ray makes it
    config.load()
    assert config.http_protocol_class is front.BoundedHeads
