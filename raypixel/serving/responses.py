"""What the OpenAPI document says of answers: their forms and every status that can come."""

from typing import Any

from raypixel.serving import answers
from raypixel.serving.answers import JSON, NPZ, PNG

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_EVENTS = {
    "schema": {
        "type": "object",
        "description": "Each server-sent event, with `stream: true`; `data` is one line of JSON.",
        "properties": {
            "event": {"type": "string", "enum": ["start", "rows", "done", "error"]},
            "data": {"type": "string"},
        },
    }
}
_RETRY = {
    "Retry-After": {
        "description": "Seconds after which to come back.",
        "schema": {"type": "integer", "minimum": 1},
    }
}
_ERRORS: dict[int, str] = {
    400: "The body is no JSON.",
    401: "An API key is required, and missing or unknown.",
    404: "No such model.",
    406: "No form of the answer is accepted.",
    408: "The body did not arrive, or Ray Serve's own time limit was shorter.",
    413: "The body is too large.",
    422: "A value is out of range, or a picture cannot be taken.",
    429: "The queue is full.",
    503: "Not ready yet, or about to end.",
    504: "Not finished in time; the work is cancelled.",
}
_EXAMPLE_IMAGES = {
    "model": "digits",
    "seed": 7,
    "temperature": 1.0,
    "image_shape": [1, 8, 8],
    "num_levels": 17,
    "images": [{"png": "iVBORw0KGgo...", "source": None, "class_label": None}],
}
_EXAMPLE_SCORES = {
    "model": "digits",
    "image_shape": [1, 8, 8],
    "scores": [{"nll_nats": 126.2, "bits_per_dim": 2.844}],
}


def documented(kind: str) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of an endpoint of one kind."""
    work = [400, 401, 404, 406, 408, 413, 422, 429, 503, 504]
    if kind == "images":
        content = {
            JSON: {"example": _EXAMPLE_IMAGES},
            PNG: _BINARY,
            NPZ: _BINARY,
            "text/event-stream": _EVENTS,
        }
        ok = {"model": answers.ImagesAnswer, "description": "The images.", "content": content}
        return {200: ok, **_errors(work)}
    if kind == "scores":
        content = {JSON: {"example": _EXAMPLE_SCORES}, NPZ: _BINARY}
        ok = {"model": answers.ScoresAnswer, "description": "The scores.", "content": content}
        return {200: ok, **_errors(work)}
    if kind == "models":
        return {
            200: {"model": answers.ModelsAnswer, "description": "What is served."},
            **_errors([401]),
        }
    if kind == "metrics":
        text = {"text/plain": {"schema": {"type": "string"}}}
        return {200: {"description": "Prometheus text.", "content": text}, **_errors([401])}
    status = {"schema": {"type": "object", "properties": {"status": {"type": "string"}}}}
    ok = {"description": "Yes.", "content": {JSON: status}}
    return {200: ok, **_errors([503] if kind == "ready" else [])}


def _errors(statuses: list[int]) -> dict[int | str, dict[str, Any]]:
    found: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        found[status] = {"model": answers.ErrorAnswer, "description": _ERRORS[status]}
        if status in (429, 503):
            found[status]["headers"] = _RETRY
    return found
