"""The HTTP application over hosts: plain FastAPI, to be run under any ASGI server; docs/serving.md is its contract."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from raypixel import __version__
from raypixel.config import explain
from raypixel.serving import answers
from raypixel.serving.answers import JSON, NPZ, PNG
from raypixel.serving.documents import add_documents
from raypixel.serving.gate import Gate, extra_headers
from raypixel.serving.hosts import Card, Hosts
from raypixel.serving.metrics import CONTENT_TYPE, Metrics
from raypixel.serving.requests import (
    BODIES,
    CompletionRequest,
    SampleRequest,
    ScoreRequest,
    check_limits,
)
from raypixel.serving.responses import documented
from raypixel.serving.security import Keys
from raypixel.serving.streams import ClientGone, EventStream, while_connected
from raypixel.serving.work import (
    RETRY_DRAINING_S,
    Order,
    Problem,
    completion_order,
    problems,
    sample_order,
    score_inputs,
)

_IMAGE_FORMS, _SCORE_FORMS = (JSON, PNG, NPZ), (JSON, NPZ)


def create_app(hosts: Hosts, *, keys: Keys, replica: str = "0") -> FastAPI:
    """Return the application.

    Args:
        hosts: What is served; opened and closed by the caller.
        keys: API keys; without any, everybody may ask.
        replica: Name of this process in metrics.
    """
    app = FastAPI(
        title="raypixel",
        version=__version__,
        description="Samples, completions and exact likelihoods of autoregressive image models.",
        docs_url=None,
        redoc_url=None,
        openapi_tags=[],
    )
    metrics = Metrics(hosts, replica=replica)
    _add_work(app, hosts)
    _add_state(app, hosts, keys, metrics)
    _add_handlers(app)
    add_documents(app, requires_key=bool(keys))
    app.add_middleware(Gate, hosts=hosts, keys=keys, metrics=metrics)
    return app


def _add_work(app: FastAPI, hosts: Hosts) -> None:
    limits = hosts.settings.limits

    @app.post("/v1/samples", summary="Draw new images", responses=documented("images"))
    async def samples(body: SampleRequest, request: Request) -> Response:
        return await _images(request, hosts, body, lambda card: sample_order(body, card))

    @app.post("/v1/completions", summary="Complete pictures", responses=documented("images"))
    async def completions(body: CompletionRequest, request: Request) -> Response:
        return await _images(
            request, hosts, body, lambda card: completion_order(body, card, limits)
        )

    @app.post("/v1/scores", summary="Score pictures", responses=documented("scores"))
    async def scores(body: ScoreRequest, request: Request) -> Response:
        form = _form(request, _SCORE_FORMS)
        _check(body, hosts)
        with problems(limits):
            async with hosts.use(body.model) as host:
                x, labels = await score_inputs(body, host.card, limits)
                working = host.engine.score(x, labels)
                nats = await while_connected(request, working, limits.timeout_s)
        if form == JSON:
            answer = answers.scores_mapping(nats, host.card, per_pixel=body.per_pixel)
            return JSONResponse(answer)
        totals, bits = answers.likelihoods(nats)
        arrays = {"nll_nats": totals, "bits_per_dim": bits}
        if body.per_pixel:
            arrays["surprise"] = nats
        return Response(answers.arrays(**arrays), media_type=NPZ)


async def _images(
    request: Request,
    hosts: Hosts,
    body: SampleRequest | CompletionRequest,
    make_order: Callable[[Card], Awaitable[Order]],
) -> Response:
    limits = hosts.settings.limits
    form = JSON if body.stream else _form(request, _IMAGE_FORMS)
    _check(body, hosts)
    async with AsyncExitStack() as stack:
        with problems(limits):
            host = await stack.enter_async_context(hosts.use(body.model))
            order = await make_order(host.card)
            job = host.engine.submit(order.images, streams_rows=body.stream)
            if body.stream:
                end = stack.pop_all().aclose
                return EventStream(order, job, limits=limits, end=end)
            stack.callback(job.cancel)
            x = await while_connected(request, job.result(), limits.timeout_s)
    encode = {PNG: order.to_grid, NPZ: order.to_arrays}.get(form)
    if encode is not None:
        return Response(await asyncio.to_thread(encode, x), media_type=form)
    return JSONResponse(await asyncio.to_thread(order.to_mapping, x))


def _form(request: Request, offered: tuple[str, ...]) -> str:
    accept = ", ".join(request.headers.getlist("accept"))
    form = answers.choose_form(accept, offered)
    if form is None:
        raise Problem(406, f"Accept must allow one of {', '.join(offered)}, got {accept!r}")
    return form


def _check(body: Any, hosts: Hosts) -> None:
    if (problem := check_limits(body, hosts.settings.limits)) is not None:
        raise Problem(422, problem)


def _add_state(app: FastAPI, hosts: Hosts, keys: Keys, metrics: Metrics) -> None:
    @app.get("/v1/models", summary="What is served", responses=documented("models"))
    async def models() -> Response:
        return JSONResponse(
            {
                "models": [answers.model_mapping(card) for card in hosts.cards.values()],
                "limits": hosts.settings.limits.model_dump(),
                "requires_key": bool(keys),
            }
        )

    @app.get("/healthz", summary="Whether the process works", responses=documented("health"))
    async def healthz() -> Response:
        hosts.check_health()
        return JSONResponse({"status": "ok"})

    @app.get("/readyz", summary="Whether requests are accepted", responses=documented("ready"))
    async def readyz() -> Response:
        if not hosts.is_ready or hosts.is_draining:
            state = "draining" if hosts.is_draining else "not ready yet"
            raise Problem(503, state, retry_after_s=RETRY_DRAINING_S)
        return JSONResponse({"status": "ready"})

    @app.get("/metrics", summary="Prometheus metrics", responses=documented("metrics"))
    async def metrics_text() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)


def _add_handlers(app: FastAPI) -> None:
    @app.exception_handler(Problem)
    async def on_problem(request: Request, problem: Problem) -> Response:
        del request
        return _error(problem)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> Response:
        return _error(_invalid(request, error))

    @app.exception_handler(HTTPException)
    async def on_refused(request: Request, error: HTTPException) -> Response:
        texts = {
            400: "the body must be JSON",
            404: f"there is nothing at {request.url.path!r}",
            405: f"the method must be another one at {request.url.path!r}, got {request.method}",
        }
        detail = texts.get(error.status_code, str(error.detail))
        response = _error(Problem(error.status_code, detail))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(ClientGone)
    async def on_gone(request: Request, error: ClientGone) -> Response:
        del request, error
        return Response(status_code=499)  # nobody reads it; the log of a proxy does


def _invalid(request: Request, error: RequestValidationError) -> Problem:
    details = error.errors()
    if any(detail["type"] == "json_invalid" for detail in details):
        return Problem(400, "the body must be JSON, got a text that is none")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON and not kind.endswith("+json"):
        return Problem(400, f"Content-Type must be {JSON}, got {kind or 'none'}")
    inside = [{**detail, "loc": detail["loc"][1:]} for detail in details]
    found = explain(inside, BODIES[request.url.path])
    sentences = [f"{'.'.join(loc) or 'the body'} {text}" for loc, text in found]
    return Problem(422, _short("; ".join(sentences)))


def _error(problem: Problem) -> Response:
    body = {"detail": problem.detail.encode("ascii", "backslashreplace").decode()}
    return JSONResponse(body, problem.status, headers=dict(extra_headers(problem)))


def _short(text: str) -> str:
    return text if len(text) <= 1000 else f"{text[:1000]} ..."
