"""The HTTP contract of docs/serving.md under load: clients that go, full queues, slow requests, draining, models in turn."""

import asyncio
import json
import socket

import numpy as np
import pytest

from tests.serving.service import (
    connect,
    detail,
    picture,
    post,
    serving,
    wait_until,
    write_model,
)

RNG = np.random.default_rng(0)
GRAY = picture(RNG.integers(0, 17, (8, 8)) * 15)


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """Serve a model whose images take a while, with two slots and a short queue."""
    path = tmp_path_factory.mktemp("slow") / "slow"
    write_model(path, image_shape=(1, 64, 64), hidden_size=48, num_layers=8)
    limits = {"max_queued_images": 8, "timeout_s": 60.0}
    with serving(models={"slow": str(path)}, num_slots=2, limits=limits) as running:
        with running.client() as client:
            post(client, "samples", {})  # compiles
        yield running


def busy(service) -> tuple[int, int]:
    stats = service.replica.models["slow"].engine.stats
    return stats.active_slots, stats.queued_images


def start_request(service, body: dict) -> socket.socket:
    """Send a request for samples and do not wait for the answer."""
    text = json.dumps(body).encode()
    connection = connect(service)
    kind = "Content-Type: application/json"
    head = f"POST /v1/samples HTTP/1.1\r\nHost: localhost\r\n{kind}\r\nContent-Length: {len(text)}\r\n\r\n"
    connection.sendall(head.encode() + text)
    return connection


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_frees_its_slots(slow, stream):
    before = slow.replica.models["slow"].engine.stats
    num_cancelled, num_finished = before.jobs_cancelled, before.jobs_finished
    connection = start_request(slow, {"n": 8, "stream": stream})
    wait_until(lambda: busy(slow)[0] == 2)
    connection.close()
    wait_until(lambda: busy(slow) == (0, 0))
    after = slow.replica.models["slow"].engine.stats
    assert after.jobs_cancelled == num_cancelled + 1
    assert after.jobs_finished == num_finished


@pytest.mark.parametrize(
    ("path", "body"),
    [("samples", {"n": 9}), ("samples", {"n": 9, "stream": True}),
     ("completions", {"images": [GRAY] * 3, "n": 3}), ("scores", {"images": [GRAY] * 9})],
)  # fmt: skip
def test_a_request_that_no_queue_can_hold_gets_a_sentence(slow, path, body):
    with slow.client() as client:
        response = post(client, path, body)
    assert response.status_code == 422
    assert "must be at most 8, got 9" in detail(response)


def test_a_full_queue_says_when_to_come_back(slow):
    connections = [start_request(slow, {"n": 8}), start_request(slow, {"n": 2})]
    try:
        wait_until(lambda: sum(busy(slow)) >= 8)
        with slow.client() as client:
            refused = post(client, "samples", {"n": 8})
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert "queue must have room" in detail(refused)
    finally:
        for connection in connections:
            connection.close()
    wait_until(lambda: busy(slow) == (0, 0))


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_takes_too_long_is_cancelled(models, tmp_path_factory, slow, stream):
    stats, limits = slow.replica.models["slow"].engine.stats, slow.replica.settings.limits
    num_cancelled, num_images = stats.jobs_cancelled, stats.images
    object.__setattr__(limits, "timeout_s", 0.02)  # an image takes longer, on any machine
    try:
        with slow.client() as client:
            response = post(client, "samples", {"n": 8, "stream": stream})
    finally:
        object.__setattr__(limits, "timeout_s", 60.0)
    if stream:
        name, data = response.text.strip().split("\n\n")[-1].split("\ndata: ")
        assert name == "event: error"
        assert json.loads(data)["status"] == 504
    else:
        assert response.status_code == 504
        assert "is cancelled" in detail(response)
    wait_until(lambda: busy(slow) == (0, 0))
    assert stats.jobs_cancelled == num_cancelled + 1
    assert stats.images < num_images + 8


def test_draining_finishes_what_was_accepted_and_refuses_the_rest(models):
    with serving(models={"a": models["gray"]}, num_slots=1) as running:
        body = {"n": 200, "stream": True}
        with (
            running.client() as client,
            running.client() as other,
            other.stream("POST", "/v1/samples", json=body) as response,
        ):
            lines = response.iter_lines()
            assert next(lines) == "event: start"

            async def begin(replica):
                running.draining = asyncio.create_task(replica.drain())
                await asyncio.sleep(0)

            running.call(begin)
            for refused in (post(client, "samples", {}), client.get("/readyz")):
                assert refused.status_code == 503
                assert int(refused.headers["retry-after"]) >= 1
            assert client.get("/healthz").status_code == 200
            rest = list(lines)
            assert "event: done" in rest
        wait_until(lambda: running.draining.done())


def test_a_half_sent_body_does_not_delay_draining(models):
    with serving(models={"a": models["gray"]}) as running, connect(running) as connection:
        head = "POST /v1/samples HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"
        connection.sendall(head.encode())
        with running.client() as client:  # by now the other request is there too
            assert post(client, "samples", {}).status_code == 200

        async def drain(replica):
            await asyncio.wait_for(replica.drain(), 30)  # a body is waited for for 60 s

        running.call(drain)
        connection.sendall(b'"n": 1 }')
        assert connection.recv(1000).startswith(b"HTTP/1.1 503")


def test_models_take_turns_in_memory(models):
    with serving(models=models, max_loaded_models=1) as running, running.client() as client:
        assert [name for name, _ in running.replica.engines()] == ["gray"]
        first = post(client, "samples", {"seed": 4}).json()
        for name in ("color", "classes"):
            assert post(client, "samples", {"model": name}).json()["model"] == name
            assert [name for name, _ in running.replica.engines()] == [name]
        assert post(client, "samples", {"seed": 4}).json() == first

        async def in_use(replica):
            """Ask for another model while this one works for somebody."""
            async with replica.use("gray"):
                return await asyncio.to_thread(post, client, "samples", {"model": "color"})

        assert running.call(in_use).status_code == 429
        assert post(client, "samples", {"model": "color"}).status_code == 200
