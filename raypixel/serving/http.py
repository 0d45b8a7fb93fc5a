"""The HTTP application of a replica: plain FastAPI, to be run under any ASGI server; docs/serving.md is its contract."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response

from raypixel import __version__
from raypixel.config import explain, parse_json
from raypixel.serving import documents
from raypixel.serving.admission import Admission
from raypixel.serving.answers import (
    JSON,
    NPZ,
    PNG,
    RETRY_DRAINING_S,
    ImagesAnswer,
    LimitsAnswer,
    ModelsAnswer,
    Problem,
    ScoresAnswer,
    choose_form,
    images_file,
    problems,
    scores_file,
)
from raypixel.serving.event_stream import ClientGone, EventStream, while_connected
from raypixel.serving.metrics import CONTENT_TYPE, Metrics
from raypixel.serving.replica import Replica
from raypixel.serving.requests import (
    BODIES,
    CompletionRequest,
    ImagesRequest,
    SampleRequest,
    ScoreRequest,
)
from raypixel.serving.settings import Keys


class _StrictRequest(Request):
    async def json(self) -> Any:
        return parse_json(await self.body())


class _StrictRoute(APIRoute):
    """Refuse bodies in which a key stands twice."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strictly


def create_app(replica: Replica, *, keys: Keys) -> FastAPI:
    """Return the application.

    Args:
        replica: What is served; opened and closed by the caller.
        keys: API keys; without any, everybody may ask.
    """
    app = FastAPI(
        title="raypixel",
        version=__version__,
        description="Samples, completions and exact likelihoods of autoregressive image models.",
        docs_url=None,
        redoc_url=None,
        openapi_tags=[],
        redirect_slashes=False,
    )
    app.router.route_class = _StrictRoute
    metrics = Metrics(replica)
    _add_work(app, replica)
    _add_state(app, replica, keys, metrics)
    _add_handlers(app)
    documents.add_documents(app, requires_key=bool(keys))
    app.add_middleware(Admission, replica=replica, keys=keys, metrics=metrics)
    return app


def _add_work(app: FastAPI, replica: Replica) -> None:
    limits = replica.settings.limits

    @app.post(
        "/v1/samples",
        summary="Draw new images",
        response_model=ImagesAnswer,
        responses=documents.image_responses(),
    )
    async def samples(body: SampleRequest, request: Request) -> ImagesAnswer | Response:
        return await _images(request, replica, body)

    @app.post(
        "/v1/completions",
        summary="Complete pictures",
        response_model=ImagesAnswer,
        responses=documents.image_responses(),
    )
    async def completions(body: CompletionRequest, request: Request) -> ImagesAnswer | Response:
        return await _images(request, replica, body)

    @app.post(
        "/v1/scores",
        summary="Score pictures",
        response_model=ScoresAnswer,
        response_model_exclude_unset=True,
        responses=documents.score_responses(),
    )
    async def scores(body: ScoreRequest, request: Request) -> ScoresAnswer | Response:
        form = _form(request, JSON, NPZ)
        with problems(limits):
            body.check(limits)
            async with replica.use(body.model) as (model, engine):
                x, labels = await body.to_levels(model, limits)
                nats = await while_connected(
                    request.receive, engine.score(x, labels), limits.timeout_s
                )
        if form == JSON:
            return ScoresAnswer.of(nats, model.answer, per_pixel=body.per_pixel)
        return Response(scores_file(nats, per_pixel=body.per_pixel), media_type=form)


async def _images(
    request: Request, replica: Replica, body: ImagesRequest
) -> ImagesAnswer | Response:
    limits = replica.settings.limits
    form = JSON if body.stream else _form(request, JSON, PNG, NPZ)
    async with AsyncExitStack() as stack:
        with problems(limits):
            body.check(limits)
            model, engine = await stack.enter_async_context(replica.use(body.model))
            job = engine.submit(await body.to_images(model, limits), streams_rows=body.stream)
            if body.stream:
                end = stack.pop_all().aclose
                return EventStream(body, model.answer, job, limits=limits, end=end)
            stack.callback(job.cancel)
            x = await while_connected(request.receive, job.result(), limits.timeout_s)
    made = (x, model.answer, body, job.images)
    if form == JSON:
        return await asyncio.to_thread(ImagesAnswer.of, *made)
    return Response(await asyncio.to_thread(images_file, form, *made), media_type=form)


def _form(request: Request, *offered: str) -> str:
    return choose_form(", ".join(request.headers.getlist("accept")), offered)


def _add_state(app: FastAPI, replica: Replica, keys: Keys, metrics: Metrics) -> None:
    @app.get(
        "/v1/models",
        summary="What is served",
        response_description="What is served.",
        responses=documents.errors(401, 403),
    )
    async def models() -> ModelsAnswer:
        return ModelsAnswer(
            models=[model.answer for model in replica.models.values()],
            limits=LimitsAnswer(**replica.settings.limits.model_dump()),
            requires_key=bool(keys),
        )

    @app.head("/healthz", include_in_schema=False)
    @app.get(
        "/healthz",
        summary="Whether the process works",
        response_model=None,
        responses=documents.state_responses(),
    )
    async def healthz() -> dict[str, str]:
        replica.check_health()
        return {"status": "ok"}

    @app.head("/readyz", include_in_schema=False)
    @app.get(
        "/readyz",
        summary="Whether requests are accepted",
        response_model=None,
        responses=documents.state_responses(503),
    )
    async def readyz() -> dict[str, str]:
        if not replica.is_ready or replica.is_draining:
            state = "draining" if replica.is_draining else "not ready yet"
            raise Problem(503, state, retry_after_s=RETRY_DRAINING_S)
        return {"status": "ready"}

    @app.get("/metrics", summary="Prometheus metrics", responses=documents.metric_responses())
    async def metrics_text() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)


def _add_handlers(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> Response:
        return _invalid(request, error).to_response()

    @app.exception_handler(HTTPException)
    async def on_refused(request: Request, error: HTTPException) -> Response:
        texts = {
            400: "the body must be JSON",
            404: f"there is nothing at {request.url.path!r}",
            405: f"the method must be another one at {request.url.path!r}, got {request.method}",
        }
        detail = texts.get(error.status_code, str(error.detail))
        response = Problem(error.status_code, detail).to_response()
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(ClientGone)
    async def on_gone(request: Request, error: ClientGone) -> Response:
        del request, error
        return Response(status_code=499)  # nobody reads it; the log of a proxy does


def _invalid(request: Request, error: RequestValidationError) -> Problem:
    details = error.errors()
    for detail in details:
        if detail["type"] == "json_invalid":
            return Problem(400, f"the body must be JSON: {detail['ctx']['error']}")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON and not kind.endswith("+json"):
        return Problem(400, f"Content-Type must be {JSON}, got {kind or 'none'}")
    inside = [{**detail, "loc": detail["loc"][1:]} for detail in details]
    found = explain(inside, BODIES[request.url.path])
    sentences = [f"{'.'.join(loc) or 'the body'} {text}" for loc, text in found]
    return Problem(422, _short("; ".join(sentences)))


def _short(text: str) -> str:
    return text if len(text) <= 1000 else f"{text[:1000]} ..."
