"""The client against a really running service: the same images as the model itself, and clear errors."""

import http.server
import threading

import numpy as np
import pytest

import raypixel
from raypixel.errors import ServingError
from tests.serving.service import serving, write_model


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("client") / "digits")


@pytest.fixture(scope="module")
def running(path):
    with serving(models={"digits": str(path)}, keys=("a-key-of-this-test",)) as service:
        yield service


@pytest.fixture
def client(running):
    return raypixel.Client(running.url, api_key="a-key-of-this-test")


@pytest.fixture
def model(path):
    return raypixel.load(path, device="cpu")


def test_samples_and_completions_and_scores_are_those_of_the_model(client, model):
    x = model.sample(3, seed=1).numpy()
    assert (client.sample(3, seed=1) == x).all()
    observed = np.zeros((8, 8), bool)
    observed[:3] = observed[:, :2] = True
    expected = model.complete(x, observed, n=2, seed=4).numpy()
    assert (client.complete(x, observed, n=2, seed=4) == expected).all()
    scores = client.score(x, per_pixel=True)
    np.testing.assert_allclose(scores["nll_nats"], model.nll_nats(x).numpy(), rtol=1e-6)
    np.testing.assert_allclose(scores["surprise"], model.surprise(x).numpy(), rtol=1e-4, atol=1e-6)


def test_a_stream_writes_the_same_images_row_by_row(client):
    x = np.zeros((4, 1, 8, 8), np.uint8)
    for rows in client.stream(4, seed=2):
        x[rows.image, :, rows.row : rows.row + rows.levels.shape[1]] = rows.levels
    assert (x == client.sample(4, seed=2)).all()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda c: c.sample(1000), r"n must be at most 256, got 1000 \(HTTP 422\)"),
        (lambda c: c.complete(np.full((1, 8, 8), 17)), r"x must hold integers in \[0, 16\]"),
        (lambda c: c.complete(np.zeros((1, 8, 9), int)), "must be 8x8 as in training, got 8x9"),
        (lambda c: list(c.stream(1, class_label=3)), "digits has no classes"),
    ],
)
def test_what_is_refused_is_said_in_a_sentence(client, call, text):
    with pytest.raises(ServingError, match=text):
        call(client)


def test_wrong_addresses_names_and_keys_are_told(running):
    with pytest.raises(ServingError, match=r"url must look like .* got 'localhost:8000'"):
        raypixel.Client("localhost:8000")
    with pytest.raises(ServingError, match="does not answer"):
        raypixel.Client("http://127.0.0.1:9").sample()
    with pytest.raises(ServingError, match=r"the API key is unknown.* \(HTTP 401\)"):
        raypixel.Client(running.url, api_key="wrong").sample()
    named = raypixel.Client(running.url, api_key="a-key-of-this-test", model="digit")
    with pytest.raises(ServingError, match="did you mean 'digits'"):
        named.sample()


def test_a_full_service_is_asked_again_when_it_says():
    answers = [(429, "0"), (503, "0"), (200, None)]
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, wait = answers[min(len(asked), 2)]
            asked.append(status)
            self.send_response(status)
            if wait:
                self.send_header("Retry-After", wait)
            self.end_headers()
            self.wfile.write(b'{"models": []}' if status == 200 else b'{"detail": "full"}')

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            assert raypixel.Client(url).models() == []
            assert asked == [429, 503, 200]
            asked.clear()
            with pytest.raises(ServingError, match=r"full \(HTTP 429\)"):
                raypixel.Client(url, max_wait_s=0).models()
        finally:
            server.shutdown()
            thread.join()
