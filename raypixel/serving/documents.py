"""What a person reads: the static page at `/`, the OpenAPI document with every answer and status, and its page at `/docs`."""

import html
import json
import mimetypes
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.responses import Response

from raypixel.serving.answers import JSON, NPZ, PNG, ErrorAnswer

PAGE = Path(__file__).parent / "page"
# nothing comes from another host, and nobody frames the page
_SECURITY = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

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
    403: "A page of another site asks.",
    404: "No such model.",
    406: "No form of the answer is accepted.",
    408: "The body did not arrive, or Ray Serve's own time limit was shorter.",
    413: "The body is too large.",
    422: "A value is out of range, or a picture cannot be taken.",
    429: "The queue is full.",
    503: "Not ready yet, or about to end.",
    504: "Not finished in time; the work is cancelled.",
}
_WORK_ERRORS = (400, 401, 403, 404, 406, 408, 413, 422, 429, 503, 504)
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
Responses = dict[int | str, dict[str, Any]]


def image_responses() -> Responses:
    """Return the `responses` of a route that answers with images."""
    binary = {PNG: _BINARY, NPZ: _BINARY, "text/event-stream": _EVENTS}
    content = {JSON: {"example": _EXAMPLE_IMAGES}, **binary}
    return {200: {"description": "The images.", "content": content}, **errors(*_WORK_ERRORS)}


def score_responses() -> Responses:
    """Return the `responses` of the route that answers with scores."""
    content = {JSON: {"example": _EXAMPLE_SCORES}, NPZ: _BINARY}
    return {200: {"description": "The scores.", "content": content}, **errors(*_WORK_ERRORS)}


def state_responses(*statuses: int) -> Responses:
    """Return the `responses` of a route that answers yes, or one of some errors."""
    status = {"schema": {"type": "object", "properties": {"status": {"type": "string"}}}}
    return {200: {"description": "Yes.", "content": {JSON: status}}, **errors(403, *statuses)}


def metric_responses() -> Responses:
    """Return the `responses` of the route that answers with metrics."""
    text = {"text/plain": {"schema": {"type": "string"}}}
    return {200: {"description": "Prometheus text.", "content": text}, **errors(401, 403)}


def errors(*statuses: int) -> Responses:
    """Return the `responses` of some errors."""
    found: Responses = {
        status: {"model": ErrorAnswer, "description": _ERRORS[status]} for status in statuses
    }
    for status in found.keys() & {429, 503}:
        found[status]["headers"] = _RETRY
    return found


def add_documents(app: FastAPI, *, requires_key: bool) -> None:
    """Add the pages, and make the OpenAPI document name the key where one is required."""
    _add_page(app)

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, requires_key=requires_key)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(_docs_page(document()), media_type="text/html", headers=_SECURITY)


def _add_page(app: FastAPI) -> None:
    for file in sorted(PAGE.rglob("*")) if PAGE.is_dir() else ():
        if not file.is_file() or file.name.startswith((".", "__")):
            continue
        name = file.relative_to(PAGE).as_posix()
        _add_file(app, "/" if name == "index.html" else f"/{name}", file)


def _add_file(app: FastAPI, path: str, file: Path) -> None:
    content = file.read_bytes()
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    if file.suffix == ".js":
        kind = "text/javascript"

    @app.api_route(path, methods=["GET", "HEAD"], include_in_schema=False)
    async def static() -> Response:
        return Response(content, media_type=kind, headers=_SECURITY)


def _document(app: FastAPI, *, requires_key: bool) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    for methods in document["paths"].values():
        for operation in methods.values():
            # FastAPI's own form of a validation error is not ours
            operation["responses"].pop("422", None) if "requestBody" not in operation else None
    schemas = document.get("components", {}).get("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    if requires_key:
        document.setdefault("components", {})["securitySchemes"] = {
            "key": {"type": "http", "scheme": "bearer"}
        }
        for path, methods in document["paths"].items():
            if path.startswith("/v1/") or path == "/metrics":
                for operation in methods.values():
                    operation["security"] = [{"key": []}]
    return document


def _docs_page(document: dict[str, Any]) -> str:
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{document['info']['title']}</title><body>",
        f"<h1>{document['info']['title']} {document['info']['version']}</h1>",
        f"<p>{html.escape(document['info']['description'])} ",
        "<a href='openapi.json'>OpenAPI document</a></p>",
    ]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>")
            parts.append(f"<p>{html.escape(operation.get('summary', ''))}</p>")
            parts.append(_body_table(document, operation))
            rows = [
                f"<tr><td>{status}<td>{html.escape(answer['description'])}"
                for status, answer in operation["responses"].items()
            ]
            parts.append(f"<table><tr><th>status<th>meaning{''.join(rows)}</table>")
    return "".join(parts)


def _body_table(document: dict[str, Any], operation: dict[str, Any]) -> str:
    if "requestBody" not in operation:
        return ""
    reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    schema = document["components"]["schemas"][reference.rsplit("/", 1)[-1]]
    rows = []
    for name, field in schema["properties"].items():
        default = json.dumps(field["default"]) if "default" in field else "must be given"
        text = html.escape(field.get("description", ""))
        rows.append(f"<tr><td><code>{name}</code><td>{html.escape(default)}<td>{text}")
    example = html.escape(json.dumps(schema["examples"][0]))
    head = "<tr><th>key<th>default<th>meaning"
    return f"<table>{head}{''.join(rows)}</table><pre>{example}</pre>"
