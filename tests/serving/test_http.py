"""The HTTP contract of docs/serving.md over a real socket: answers, forms and streams."""

import base64
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import raypixel
from raypixel.grids import gray_values
from tests.serving.service import npz, picture, pixels, post

RNG = np.random.default_rng(0)
GRAY = picture(RNG.integers(0, 17, (8, 8)) * 15)


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
