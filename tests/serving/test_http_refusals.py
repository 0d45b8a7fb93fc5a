"""The HTTP contract of docs/serving.md over a real socket: what is refused, with its status and a sentence."""

import base64
import struct
import zlib

import numpy as np
import pytest

from tests.serving.service import detail, picture, post, serving

RNG = np.random.default_rng(0)
GRAY = picture(RNG.integers(0, 17, (8, 8)) * 15)


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
        (base64.b64encode(RAW[:-16]).decode(), "images[0]: must be a readable image"),
        (base64.b64encode(RAW[:-20] + bytes(20)).decode(), "images[0]: must be a readable image"),
        (base64.b64encode(b"RIFF\x10\0\0\0WEBPVP8 " + bytes(8)).decode(), "must be a readable image"),
    ],
    ids=[
        "no base64", "empty", "a GIF", "truncated", "cut header", "damaged", "wrong size", "bomb",
        "large bomb", "wrong colors", "too large", "no end", "wrong checksum", "bad WebP",
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
    for twice in (b'{"n": 1, "n": 2}', b'{"n": 1, "\\u006e": 2}'):
        refused = client.post("/v1/samples", content=twice, headers=kind)
        assert refused.status_code == 400
        assert detail(refused) == "the body must be JSON: key 'n' stands twice"
    assert client.get("/v1/samples").status_code == 405
    assert client.head("/healthz").status_code == client.head("/readyz").status_code == 200
    slash = client.get("/v1/models/", headers={"Host": "localhost"})
    assert (slash.status_code, "location" in slash.headers) == (404, False)
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


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:80", "[::1", "", "127.0.0.1@x"]
)
def test_a_name_of_another_site_for_this_machine_is_refused(client, host):
    for path in ("/", "/v1/models", "/metrics"):
        refused = client.get(path, headers={"Host": host})
        assert refused.status_code == (403 if host != "" else refused.status_code), refused.text
    assert client.post("/v1/samples", json={}, headers={"Host": host}).status_code in (400, 403)


def test_a_page_of_another_site_is_refused(client, service):
    host = service.url.removeprefix("http://")
    for origin in ("http://evil.example", "null", "http://localhost:1", f"http://{host}.evil"):
        refused = post(client, "samples", {}, Origin=origin)
        assert refused.status_code == 403
        assert detail(refused).startswith("Origin must be that of the service's own page, got")
        assert "access-control-allow-origin" not in refused.headers
    assert post(client, "samples", {}, Origin=service.url).status_code == 200
    for local in ("localhost", "[::1]:80", "127.0.0.2:9"):
        assert client.get("/v1/models", headers={"Host": local}).status_code == 200


def test_a_deployment_names_its_hosts(models):
    settings = {"models": {"a": models["gray"]}, "allowed_hosts": ["images.example"]}
    with serving(**settings) as running, running.client() as client:
        for host, status in (("images.example:443", 200), ("localhost", 403), ("x.example", 403)):
            assert client.get("/v1/models", headers={"Host": host}).status_code == status
    key = "correct-horse-battery"
    with serving(models={"a": models["gray"]}, keys=(key,)) as running, running.client() as client:
        headers = {"Host": "any.example", "X-API-Key": key}
        assert client.get("/v1/models", headers=headers).status_code == 200


def test_unknown_paths_are_one_label_of_the_metrics(models):
    with serving(models={"a": models["gray"]}, keys=("correct-horse-battery",)) as running:
        key = {"X-API-Key": "correct-horse-battery"}
        with running.client() as client:
            before = len(client.get("/metrics", headers=key).content)
            for number in range(300):
                client.get(f"/v1/{number}")
                client.get(f"/v1/{number}", headers=key)
            client.get("/v1/models")
            text = client.get("/metrics", headers=key).text
    assert 'path="/v1/models",status="401"' in text
    assert 'path="other",status="401"' in text
    assert len(text) < before + 10_000


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
