"""A client of `raypixel serve`: images in and out as NumPy arrays of levels, with the standard library alone.

The service takes pictures: level l of K is sent and comes back as l * 255 / (K - 1). Samples and completions are asked for as
arrays, so nothing is lost on the way back. (With `data.num_levels` above 128, some levels sent do not come back as they were:
pictures of such models are cut, not rounded.)
"""

import base64
import io
import json
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypixel.errors import ServingError

_NPZ = "application/x-npz"
_RETRIED = (429, 503)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class RequestRefused(ServingError):
    """Report an answer that is an error.

    Attributes:
        status: The HTTP status.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"{detail} (HTTP {status})")
        self.status = status


@dataclass(frozen=True)
class Written:
    """Rows of an image that are complete.

    Attributes:
        image: Number of the image.
        row: The first of the rows.
        levels: (C, num_rows, W), uint8.
    """

    image: int
    row: int
    levels: NDArray[np.uint8]


class Client:
    """Ask a service."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        model: str | None = None,
        timeout_s: float = 330.0,
        max_wait_s: float = 60.0,
    ) -> None:
        """Describe a service; nothing is sent yet.

        Args:
            url: Its address, such as "http://127.0.0.1:8000".
            api_key: Where it requires one.
            model: Which model to ask; by default the service's first.
            timeout_s: Longest wait for an answer.
            max_wait_s: How long a request is repeated while the service is full or not ready (429, 503).

        Raises:
            ServingError: The URL is not of http or https.
        """
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ServingError(f"url must look like http://127.0.0.1:8000, got {url!r}")
        self._url = url.rstrip("/")
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._model, self._timeout_s, self._max_wait_s = model, timeout_s, max_wait_s
        # a proxy of the environment does not reach this machine's own addresses
        handlers = [urllib.request.ProxyHandler({})] if parts.hostname in _LOOPBACK else []
        self._opener = urllib.request.build_opener(*handlers)

    def models(self) -> list[dict[str, Any]]:
        """Return what is served, a mapping for each model (docs/serving.md)."""
        with self._ask("/v1/models", None) as answer:
            found: list[dict[str, Any]] = json.load(answer)["models"]
        return found

    def sample(
        self,
        n: int = 1,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        class_label: int | None = None,
    ) -> NDArray[np.uint8]:
        """Draw n images, (n, C, H, W); the same as `raypixel.load(...).sample` of the same seed.

        Raises:
            ServingError: The service refuses or does not answer.
        """
        body = {"n": n, "seed": seed, "temperature": temperature, "class_label": class_label}
        images: NDArray[np.uint8] = self._arrays("/v1/samples", body)["images"]
        return images

    def stream(
        self,
        n: int = 1,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        class_label: int | None = None,
    ) -> Iterator[Written]:
        """Draw n images and yield their rows as they are written; leaving the loop stops the work.

        Raises:
            ServingError: The service refuses, does not answer, or stops midway.
        """
        body = {"n": n, "seed": seed, "temperature": temperature, "class_label": class_label}
        with self._ask("/v1/samples", body | {"stream": True}) as answer:
            shape: tuple[int, ...] = ()
            for name, data in _events(answer):
                if name == "start":
                    shape = tuple(data["image_shape"])
                elif name == "rows":
                    levels = np.frombuffer(base64.b64decode(data["levels"]), np.uint8)
                    levels = levels.reshape(shape[0], data["num_rows"], shape[2])
                    yield Written(data["image"], data["row"], levels)
                elif name == "error":
                    raise RequestRefused(data["status"], data["detail"])
                elif name == "done":
                    return
        raise ServingError(f"{self._url}: the stream must end with `done`, got an early end")

    def complete(
        self,
        x: Any,
        observed: Any = "top-half",
        *,
        n: int = 1,
        seed: int = 0,
        temperature: float = 1.0,
        class_label: int | None = None,
    ) -> NDArray[np.uint8]:
        """Draw n completions of each image.

        Args:
            x: Levels, (N, C, H, W) or (C, H, W).
            observed: "top-half", "rows:N", "columns:N", or which pixels are observed, (H, W), bool.
            n: Completions of each image.
            seed: Completion k depends on the image and (seed, k) only.
            temperature: Divides the logits.
            class_label: Class of all images, for a class-conditional model.

        Returns:
            Levels, (N, n, C, H, W).

        Raises:
            ServingError: The service refuses or does not answer.
        """
        if not isinstance(observed, str):
            mask = np.asarray(observed, dtype=bool)
            observed = _picture(mask[None].astype(np.uint8), num_levels=2)
        body = {
            "images": self._pictures(x),
            "observed": observed,
            "n": n,
            "seed": seed,
            "temperature": temperature,
            "class_label": class_label,
        }
        completions: NDArray[np.uint8] = self._arrays("/v1/completions", body)["completions"]
        return completions

    def score(
        self, x: Any, *, class_label: int | None = None, per_pixel: bool = False
    ) -> dict[str, NDArray[Any]]:
        """Return `nll_nats` and `bits_per_dim` of each image, (N,), and `surprise`, (N, C, H, W), if asked for.

        Raises:
            ServingError: The service refuses or does not answer.
        """
        body = {"images": self._pictures(x), "class_label": class_label, "per_pixel": per_pixel}
        return self._arrays("/v1/scores", body)

    def _pictures(self, x: Any) -> list[str]:
        images = np.asarray(x)
        if images.ndim == 3:
            images = images[None]
        models = self.models()
        named = [model for model in models if self._model in (None, model["name"])]
        if not named:
            known = ", ".join(model["name"] for model in models)
            raise ServingError(f"model must be one of {known}, got {self._model!r}")
        num_levels = int(named[0]["num_levels"])
        is_whole = np.issubdtype(images.dtype, np.integer)
        if images.ndim != 4 or not is_whole or images.min() < 0 or images.max() >= num_levels:
            got = f"{images.dtype} of shape {images.shape}"
            raise ServingError(
                f"x must hold integers in [0, {num_levels - 1}], (N, C, H, W), got {got}"
            )
        return [_picture(image, num_levels=num_levels) for image in images]

    def _arrays(self, path: str, body: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        with self._ask(path, body, accept=_NPZ) as answer:
            content = answer.read()
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return dict(arrays)

    def _ask(
        self, path: str, body: Mapping[str, Any] | None, *, accept: str = "application/json"
    ) -> HTTPResponse:
        """Send a request, again while the service is full or not ready."""
        if body is not None and self._model is not None:
            body = {**body, "model": self._model}
        data = None if body is None else json.dumps(body).encode()
        headers = self._headers | {"Accept": accept, "Content-Type": "application/json"}
        request = urllib.request.Request(self._url + path, data, headers)  # noqa: S310 (checked above)
        deadline = time.monotonic() + self._max_wait_s
        while True:
            try:
                answer: HTTPResponse = self._opener.open(request, timeout=self._timeout_s)
                return answer
            except urllib.error.HTTPError as error:
                with error:
                    wait_s = _retry_after_s(error)
                    if error.code not in _RETRIED or time.monotonic() + wait_s > deadline:
                        raise RequestRefused(error.code, _detail(error)) from None
                time.sleep(wait_s)
            except (OSError, HTTPException) as error:
                reason = getattr(error, "reason", None) or error
                if isinstance(reason, socket.timeout):
                    reason = f"no answer within {self._timeout_s:g} s"
                raise ServingError(f"{self._url}: does not answer ({reason})") from None


def _retry_after_s(error: urllib.error.HTTPError) -> float:
    try:
        return max(0.1, float(error.headers.get("Retry-After", "1")))
    except ValueError:  # a date
        return 1.0


def _detail(error: urllib.error.HTTPError) -> str:
    text = error.read(10_000).decode("utf-8", "replace")
    try:
        return str(json.loads(text)["detail"])
    except (ValueError, KeyError, TypeError):
        return " ".join(text.split())[:200] or error.reason


def _events(answer: HTTPResponse) -> Iterator[tuple[str, dict[str, Any]]]:
    name = ""
    for line in answer:
        key, _, value = line.decode().rstrip("\r\n").partition(": ")
        if key == "event":
            name = value
        elif key == "data":
            yield name, json.loads(value)


def _picture(image: NDArray[Any], *, num_levels: int) -> str:
    """Encode levels, (C, H, W), as a PNG in base64."""
    from PIL import Image

    levels = image.astype(np.int64)
    values = (levels * 255 * 2 + num_levels - 1) // (2 * (num_levels - 1))
    pixels = values.astype(np.uint8).transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
