# The HTTP calls: each decodes its body, asks the service, and encodes the answer.
from __future__ import annotations

import msgspec
from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from fastapi.telemetry import TelemetryConfig
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from serving import schemas
from serving.admission import Admission
from serving.counting import Counting
from serving.describe import describe, install_openapi
from serving.guard import Guard, rights_of
from serving.item_events import item_values
from serving.problems import install_problem_handlers, unavailable
from serving.service import Service
from serving.shortcut import Shortcut

_HOME_PAGE = """<!doctype html><meta charset="utf-8"><title>Runnel</title>
<h1>Runnel</h1><p>A recommender that learns from the stream: the next list knows what just happened.</p>
<p>The calls are described at <a href="/docs">/docs</a> and in <a href="/openapi.json">/openapi.json</a>;
<a href="/v1/model">/v1/model</a> tells which version answers.</p>
"""
_OFTEN = ("/v1/events", "/v1/recommendations")
_NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False}


def build_app(service: Service) -> FastAPI:
    """The app of one service. Every handler is async and short: it shares the replica's event loop with all others."""
    app = FastAPI(
        title="Runnel",
        description="A recommender that learns from the stream.",
        version="1",
        telemetry=_NO_TELEMETRY,
    )
    install_problem_handlers(app)
    _add_events(app, service)
    _add_recommendations(app, service)
    _add_items(app, service)
    _add_users(app, service)
    _add_operations(app, service)
    often = [route for route in app.routes if isinstance(route, APIRoute) and route.path in _OFTEN]
    app.add_middleware(Shortcut, routes=often)
    app.add_middleware(Admission, metrics=service.metrics, config=service.config.admission)
    app.add_middleware(Guard, keys=service.config.keys)
    app.add_middleware(Counting, metrics=service.metrics)  # the last one added is the first one asked
    install_openapi(app, has_keys=bool(service.config.keys))
    return app


def _add_events(app: FastAPI, service: Service) -> None:
    seconds = service.metrics.request_seconds.labels("events")

    @app.post(
        "/v1/events",
        **describe("Send events", schemas.EventsReply, schemas.EventsRequest, 202, problems=(400, 413, 422, 503)),
    )
    async def send_events(request: Request) -> Response:
        body = await request.body()
        with seconds.time():
            raws = service.intake.split(body)
            may_delete = "administration" in rights_of(request.scope)
            return _reply(await service.accept_events(raws, service.now(), may_delete), 202)


def _add_recommendations(app: FastAPI, service: Service) -> None:
    seconds = service.metrics.request_seconds

    @app.post(
        "/v1/recommendations",
        **describe(
            "A slate for one user", schemas.SlateReply, schemas.RecommendationRequest, problems=(400, 413, 422, 503)
        ),
    )
    async def recommend(request: Request) -> Response:
        body = await request.body()
        with seconds.labels("recommendations").time():
            wanted = schemas.decode_body(body, schemas.RecommendationRequest)
            return _reply(await service.turns.take(wanted))

    @app.post(
        "/v1/similar-items",
        **describe(
            "Items like one item",
            schemas.SimilarItemsReply,
            schemas.SimilarItemsRequest,
            problems=(400, 404, 413, 422, 503),
        ),
    )
    async def similar(request: Request) -> Response:
        body = await request.body()
        with seconds.labels("similar-items").time():
            return _reply(service.similar(schemas.decode_body(body, schemas.SimilarItemsRequest)))


def _add_items(app: FastAPI, service: Service) -> None:
    @app.put(
        "/v1/items",
        **describe("Put items", schemas.EventsReply, schemas.ItemsRequest, 202, problems=(400, 413, 422, 503)),
    )
    async def put_items(request: Request) -> Response:
        now = service.now()
        raws = item_values(await request.body(), now, service.config.intake.max_events)
        return _reply(await service.accept_events(raws, now), 202)

    @app.get(
        "/v1/items/{item_id:path}", **describe("What is known of an item", schemas.ItemReply, problems=(404, 422, 503))
    )
    async def get_item(item_id: str) -> Response:
        return _reply(service.item(item_id))

    @app.delete("/v1/items/{item_id:path}", **describe("Delete an item", schemas.OffsetReply, None, 202, (422, 503)))
    async def delete_item(item_id: str) -> Response:
        done = await service.delete({"type": "item_delete", "item_id": item_id}, service.now())
        return _reply(schemas.OffsetReply(done.offsets, done.offset, item_id=item_id), 202)


def _add_users(app: FastAPI, service: Service) -> None:
    @app.get("/v1/users/{user_id:path}", **describe("A user's record", schemas.UserReply, problems=(404, 422, 503)))
    async def get_user(user_id: str) -> Response:
        return _reply(service.user(user_id))

    @app.delete("/v1/users/{user_id:path}", **describe("Forget a user", schemas.OffsetReply, None, 202, (422, 503)))
    async def delete_user(user_id: str) -> Response:
        done = await service.delete({"type": "user_delete", "user_id": user_id}, service.now())
        return _reply(schemas.OffsetReply(done.offsets, done.offset, user_id=user_id), 202)


def _add_operations(app: FastAPI, service: Service) -> None:
    @app.get("/v1/model", **describe("Which version answers", schemas.ModelReply, problems=(503,)))
    async def get_model() -> Response:
        return _reply(service.model(service.now()))

    @app.get("/healthz", summary="Liveness", response_class=PlainTextResponse)
    async def get_health() -> Response:
        try:
            service.check()
        except RuntimeError as error:
            raise unavailable(str(error)) from error
        return PlainTextResponse("alive\n")

    @app.get("/readyz", **describe("Readiness: a version is loaded", schemas.Readiness, problems=(503,)))
    async def get_readiness() -> Response:
        return _reply(service.readiness())

    @app.get("/metrics", summary="Prometheus", response_class=PlainTextResponse)
    async def get_metrics() -> Response:
        return Response(service.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", summary="What this is", response_class=HTMLResponse)
    async def get_home_page() -> Response:
        return HTMLResponse(_HOME_PAGE)


def _reply(body: msgspec.Struct, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")
