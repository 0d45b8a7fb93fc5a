"""The HTTP contract of docs/serving.md over a real socket: answers, forms, streams, and every status."""

import asyncio
import base64
import io
import json
import re
import socket
import struct
import subprocess
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

import raypixel
from raypixel.figures import gray_values
from tests.serving.service import picture, pixels, serving

RNG = np.random.default_rng(0)
GRAY = picture(RNG.integers(0, 17, (8, 8)) * 15)


def post(client, path, body, **headers):
    return client.post(f"/v1/{path}", json=body, headers=headers)


def detail(response) -> str:
    """Return the sentence of an error."""
    assert set(response.json()) == {"detail"}
    return response.json()["detail"]


def npz(response) -> dict[str, np.ndarray]:
    return dict(np.load(io.BytesIO(response.content), allow_pickle=False))


def wait_until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_samples_are_those_of_the_model_in_every_form(client, models):
    model = raypixel.load(models["gray"], device="cpu")
    expected = model.sample(3, seed=5, temperature=0.7)
    body = {"n": 3, "seed": 5, "temperature": 0.7}
    answer = post(client, "samples", body).json()
    assert answer["image_shape"] == [1, 8, 8]
    shown = np.stack([pixels(image["png"]) for image in answer["images"]])
    assert (np.round(shown / 255 * 16) == expected[:, 0].numpy()).all()
    arrays = npz(post(client, "samples", body, Accept="application/x-npz"))
    assert (arrays["images"] == expected.numpy()).all()
    grid = post(client, "samples", body, Accept="image/png, application/json;q=0.5")
    assert grid.headers["content-type"] == "image/png"
    assert grid.content.startswith(b"\x89PNG")


def test_classes_are_taken_in_turn_or_as_asked(client, models):
    model = raypixel.load(models["classes"], device="cpu")
    answer = post(client, "samples", {"model": "classes", "n": 4}, Accept="application/x-npz")
    assert (npz(answer)["images"] == model.sample(4).numpy()).all()
    images = post(client, "samples", {"model": "classes", "n": 4}).json()["images"]
    assert [image["class_label"] for image in images] == [0, 1, 2, 0]
    one = post(client, "samples", {"model": "classes", "class_label": 2}).json()
    assert one["images"][0]["class_label"] == 2


@pytest.mark.parametrize("observed", ["top-half", "rows:3", "columns:5"])
def test_completions_keep_what_is_observed_and_are_the_models(client, models, observed):
    model = raypixel.load(models["gray"], device="cpu")
    x = torch.from_numpy(RNG.integers(0, 17, (2, 1, 8, 8), dtype=np.uint8))
    pictures = [picture(gray_values(each[0], num_levels=17)) for each in x]
    body = {"images": pictures, "observed": observed, "n": 3, "seed": 2}
    arrays = npz(post(client, "completions", body, Accept="application/x-npz"))
    known = torch.from_numpy(arrays["observed"])
    assert known.sum() == {"top-half": 32, "rows:3": 24, "columns:5": 40}[observed]
    expected = model.complete(x, known, n=3, seed=2)
    assert (arrays["completions"] == expected.numpy()).all()
    sources = [image["source"] for image in post(client, "completions", body).json()["images"]]
    assert sources == [0, 0, 0, 1, 1, 1]


def test_a_picture_can_be_the_mask_and_webp_and_data_urls_are_taken(client):
    mask = np.zeros((8, 8))
    mask[2:5, 1] = 255
    picture_url = "data:image/webp;base64," + picture(np.full((8, 8), 255), form="WEBP")
    body = {"images": [picture_url], "observed": picture(mask)}
    arrays = npz(post(client, "completions", body, Accept="application/x-npz"))
    assert (arrays["observed"][0] == (mask > 0)).all()
    assert (arrays["completions"][0, 0, 0][mask > 0] == 16).all()


def test_transparent_pixels_lie_over_white(client):
    image = np.zeros((8, 8, 4), np.uint8)
    body = {"images": [picture(image)], "observed": "rows:8"}
    arrays = npz(post(client, "completions", body, Accept="application/x-npz"))
    assert (arrays["completions"] == 16).all()


def test_scores_are_the_models_nats(client, models):
    model = raypixel.load(models["gray"], device="cpu")
    x = torch.from_numpy(RNG.integers(0, 17, (2, 1, 8, 8), dtype=np.uint8))
    pictures = [picture(gray_values(each[0], num_levels=17)) for each in x]
    body = {"images": pictures, "per_pixel": True}
    scores = post(client, "scores", body).json()["scores"]
    nats = model.nll_nats(x)
    np.testing.assert_allclose([s["nll_nats"] for s in scores], nats, rtol=1e-6)
    np.testing.assert_allclose(
        [s["bits_per_dim"] for s in scores], nats / (64 * np.log(2)), rtol=1e-6
    )
    for score in scores:
        assert np.sum(score["surprise"]) == pytest.approx(score["nll_nats"], abs=1e-3)
    arrays = npz(post(client, "scores", body, Accept="application/x-npz"))
    assert arrays["surprise"].shape == (2, 1, 8, 8)
    assert "surprise" not in post(client, "scores", {"images": pictures}).json()["scores"][0]


def test_a_stream_brings_every_row_in_order_and_ends_with_the_whole_answer(client):
    body = {"model": "color", "n": 3, "seed": 9}
    with client.stream("POST", "/v1/samples", json=body | {"stream": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        text = response.read().decode()
    events = [
        (block.split("\n")[0].removeprefix("event: "), json.loads(block.split("\ndata: ")[1]))
        for block in text.strip().split("\n\n")
        if not block.startswith(":")
    ]
    assert events[0][0] == "start"
    assert events[0][1] == {
        "model": "color", "seed": 9, "num_images": 3, "image_shape": [3, 4, 5], "num_levels": 2,
    }  # fmt: skip
    levels, heads = np.zeros((3, 3, 4, 5), np.uint8), [0, 0, 0]
    for name, rows in events[1:-1]:
        assert name == "rows"
        assert rows["row"] == heads[rows["image"]]
        part = np.frombuffer(base64.b64decode(rows["levels"]), np.uint8)
        stop = rows["row"] + rows["num_rows"]
        levels[rows["image"], :, rows["row"] : stop] = part.reshape(3, rows["num_rows"], 5)
        heads[rows["image"]] = stop
    assert heads == [4, 4, 4]
    assert events[-1] == ("done", post(client, "samples", body).json())
    shown = [pixels(image["png"]).transpose(2, 0, 1) for image in events[-1][1]["images"]]
    assert (np.stack(shown) == levels * 255).all()


def test_models_and_limits_are_told(client):
    answer = client.get("/v1/models").json()
    assert [model["name"] for model in answer["models"]] == ["gray", "classes", "color"]
    assert [model["is_default"] for model in answer["models"]] == [True, False, False]
    assert answer["models"][1]["num_classes"] == 3
    assert answer["limits"]["max_n"] == 256
    assert answer["requires_key"] is False


def test_health_readiness_metrics_and_documents(client):
    assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
    post(client, "samples", {"n": 2})
    text = client.get("/metrics").text
    for name in ("active_slots", "sub_pixels_total", "queue_wait_seconds_bucket", "images_total"):
        assert f"raypixel_{name}{{" in text
    assert 'raypixel_requests_total{path="/v1/samples",status="200"}' in text
    document = client.get("/openapi.json").json()
    for path in ("/v1/samples", "/v1/completions", "/v1/scores"):
        schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        name = schema["schema"]["$ref"].rsplit("/", 1)[-1]
        for example in document["components"]["schemas"][name]["examples"]:
            assert client.post(path, json=example).status_code == 200
    assert "no API key" not in client.get("/docs").text
    assert "/v1/completions" in client.get("/docs").text


def test_the_page_is_served_and_takes_nothing_from_elsewhere(client):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert client.get("/main.js").headers["content-type"].startswith("text/javascript")
    assert client.get("/../http.py").status_code == client.get("/http.py").status_code == 404


def test_the_readmes_curl_examples_work(service, tmp_path):
    text = (Path(__file__).parents[2] / "README.md").read_text()
    commands = re.findall(r"^curl .*http://127\.0\.0\.1:8000.*$", text, flags=re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        here = command.replace("http://127.0.0.1:8000", service.url)
        script = f"{here} --fail --silent --show-error"
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, check=True)
        assert done.stdout or (tmp_path / "samples.png").read_bytes().startswith(b"\x89PNG")


def png_header_only(height: int, width: int) -> str:
    """Return a PNG that promises a size and has a few pixels of it: a decompression bomb."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(10_000))
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + parts).decode()


COLORED = np.zeros((8, 8, 3))
COLORED[3, 3] = (255, 0, 0)
RAW = base64.b64decode(GRAY)


@pytest.mark.parametrize(
    ("image", "text"),
    [
        ("%%%%", "images[0]: must be base64"),
        ("", "images[0]: must be a PNG or WebP picture"),
        (base64.b64encode(b"GIF89a" + bytes(90)).decode(), "must be a PNG or WebP picture"),
        (base64.b64encode(RAW[: len(RAW) // 2]).decode(), "images[0]: must be a readable image"),
        (base64.b64encode(RAW[:12]).decode(), "images[0]: must be a readable image"),
        (base64.b64encode(RAW[:40] + b"\xff" * 9 + RAW[49:]).decode(), "must be a readable image"),
        (picture(np.zeros((8, 9))), "images[0]: must be 8x8 as in training, got 8x9"),
        (png_header_only(60_000, 60_000), "images[0]: must be"),
        (png_header_only(12_000, 12_000), "images[0]: must be"),
        (picture(COLORED), "images[0]: must be gray as in training, got colors"),
        ("A" * 1_400_000, "images[0]: must have at most 1048576 bytes"),
        (base64.b64encode(b"RIFF\x10\0\0\0WEBPVP8 " + bytes(8)).decode(), "must be a readable image"),
    ],
    ids=[
        "no base64", "empty", "a GIF", "truncated", "cut header", "damaged", "wrong size", "bomb",
        "large bomb", "wrong colors", "too large", "bad WebP",
    ],
)  # fmt: skip
def test_a_picture_that_cannot_be_taken_gets_a_sentence(client, image, text):
    for path in ("scores", "completions"):
        response = post(client, path, {"images": [image]})
        assert response.status_code == 422
        assert text in detail(response)


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("samples", {"n": 0}, "n must be greater than or equal to 1, got 0"),
        ("samples", {"n": 257}, "n must be at most 256, got 257"),
        ("samples", {"n": "2"}, "n must be a valid integer"),
        ("samples", {"n": True}, "n must be a valid integer"),
        ("samples", {"seed": -1}, "seed must be greater"),
        ("samples", {"seed": 2**53}, "seed must be less"),
        ("samples", {"temperature": 0}, "temperature must be greater"),
        ("samples", {"sed": 1}, "sed is not a known key, did you mean 'seed'?"),
        ("samples", {"class_label": 1}, "class_label must be left out: gray has no classes, got 1"),
        ("samples", {"model": "classes", "class_label": 3}, "must be one of 0 to 2, got 3"),
        ("samples", [], "the body must be a valid dictionary"),
        ("completions", {"images": []}, "images must have at least 1, got 0"),
        ("completions", {"images": [GRAY] * 65}, "images must be at most 64, got 65"),
        ("completions", {"images": [GRAY] * 9, "n": 256}, "images times n must be at most 2048"),
        ("completions", {"images": [GRAY], "observed": "rows:9"}, "rows:N must have N in 0 to 8"),
        ("completions", {"images": [GRAY], "observed": "rows:²"}, "rows:N must have N in 0 to 8"),
        ("completions", {"images": [GRAY], "observed": "half"}, "must be top-half, rows:N"),
        ("completions", {"images": [GRAY], "observed": picture(np.zeros((8, 7)))}, "got 8x7"),
        ("completions", {}, "images must be given"),
        ("scores", {"model": "classes", "images": [GRAY]}, "class_label must be one of 0 to 2"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_value_that_is_out_of_range_gets_a_sentence(client, path, body, text):
    response = post(client, path, body)
    assert response.status_code == 422
    assert text in detail(response)


def test_requests_that_are_none_get_their_status(client):
    kind = {"content-type": "application/json"}
    for text in (
        b"",
        b"{",
        b"\xff\xfe",
        b'{"n": NaN',
        b"[" * 100_000,
        b'{"n": ' + b"9" * 5000 + b"}",
    ):
        response = client.post("/v1/samples", content=text, headers=kind)
        assert response.status_code in (400, 422), text[:10]
        assert "must" in detail(response)
    assert client.post("/v1/samples", content=b"{", headers=kind).status_code == 400
    plain = client.post("/v1/samples", content=b'{"n": 1}', headers={"content-type": "text/plain"})
    assert plain.status_code == 400
    assert "Content-Type must be application/json" in detail(plain)
    assert client.get("/v1/samples").status_code == 405
    assert client.get("/nowhere").status_code == client.post("/v1/none", json={}).status_code == 404
    unknown = post(client, "samples", {"model": "grey"})
    assert unknown.status_code == 404
    assert "got 'grey', did you mean 'gray'?" in detail(unknown)
    surrogate = client.post("/v1/samples", content=b'{"model": "\\ud800"}', headers=kind)
    assert surrogate.status_code in (404, 422)
    for path, accept in (("samples", "text/html"), ("scores", "image/png")):
        body = {"images": [GRAY]} if path == "scores" else {}
        refused = post(client, path, body, Accept=accept)
        assert refused.status_code == 406
        assert f"got '{accept}'" in detail(refused)


def test_a_body_that_is_too_large_is_refused_in_both_ways_of_sending(models):
    with (
        serving(models={"a": models["gray"]}, limits={"max_body_bytes": 1000}) as small,
        small.client() as client,
    ):
        declared = client.post("/v1/scores", json={"images": ["A" * 5000]})
        chunks = client.post("/v1/scores", content=iter([b"x" * 600] * 4))
        assert declared.status_code == chunks.status_code == 413
        assert "the body must have at most 1000 bytes, got" in detail(declared)
        assert post(client, "samples", {}).status_code == 200


def test_keys_are_asked_for_where_they_are_required(models):
    keys = ("correct-horse-battery", "another-long-key-1")
    with serving(models={"a": models["gray"]}, keys=keys) as guarded, guarded.client() as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"X-API-Key": "ü"}):
            refused = client.get("/v1/models", headers={k: v.encode() for k, v in headers.items()})
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == "Bearer"
            assert post(client, "samples", {}).status_code == 401
            assert client.get("/metrics").status_code == 401
        for key in keys:
            for headers in ({"Authorization": f"Bearer {key}"}, {"X-API-Key": key}):
                answer = client.get("/v1/models", headers=headers)
                assert answer.json()["requires_key"] is True
                assert post(client, "samples", {}, **headers).status_code == 200
        for path in ("/healthz", "/readyz", "/openapi.json", "/docs"):
            assert client.get(path).status_code == 200
        assert client.get("/openapi.json").json()["paths"]["/v1/samples"]["post"]["security"]


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """Serve a model whose images take a while, with two slots and a short queue."""
    from tests.serving.service import write_model

    path = tmp_path_factory.mktemp("slow") / "slow"
    write_model(path, image_shape=(1, 64, 64), hidden_size=48, num_layers=8)
    limits = {"max_queued_images": 8, "timeout_s": 60.0}
    with serving(models={"slow": str(path)}, num_slots=2, limits=limits) as running:
        with running.client() as client:
            post(client, "samples", {})  # compiles
        yield running


def busy(service) -> tuple[int, int]:
    stats = service.hosts.loaded["slow"].engine.stats
    return stats.active_slots, stats.queued_images


def start_request(service, body: dict) -> socket.socket:
    """Send a request for samples and do not wait for the answer."""
    text = json.dumps(body).encode()
    host, port = service.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    head = f"POST /v1/samples HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    connection.sendall(head.encode() + text)
    return connection


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_frees_its_slots(slow, stream):
    connection = start_request(slow, {"n": 8, "stream": stream})
    wait_until(lambda: busy(slow)[0] == 2)
    connection.close()
    wait_until(lambda: busy(slow) == (0, 0), seconds=1.0)


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
    limits = slow.hosts.settings.limits
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
    wait_until(lambda: busy(slow) == (0, 0), seconds=1.0)


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

            async def begin(hosts):
                running.draining = asyncio.create_task(hosts.drain())
                await asyncio.sleep(0)

            running.call(begin)
            for refused in (post(client, "samples", {}), client.get("/readyz")):
                assert refused.status_code == 503
                assert int(refused.headers["retry-after"]) >= 1
            assert client.get("/healthz").status_code == 200
            rest = list(lines)
            assert "event: done" in rest
        wait_until(lambda: running.draining.done())


def test_models_take_turns_in_memory(models):
    with serving(models=models, max_loaded_models=1) as running, running.client() as client:
        assert set(running.hosts.loaded) == {"gray"}
        first = post(client, "samples", {"seed": 4}).json()
        for name in ("color", "classes"):
            assert post(client, "samples", {"model": name}).json()["model"] == name
            assert set(running.hosts.loaded) == {name}
        assert post(client, "samples", {"seed": 4}).json() == first

        async def in_use(hosts):
            """Ask for another model while this one works for somebody."""
            async with hosts.use("gray"):
                return await asyncio.to_thread(post, client, "samples", {"model": "color"})

        assert running.call(in_use).status_code == 429
        assert post(client, "samples", {"model": "color"}).status_code == 200
