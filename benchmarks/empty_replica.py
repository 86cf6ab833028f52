# The replica of the empty service: a POST that reads its body and says yes.
from __future__ import annotations

from fastapi import FastAPI, Request
from ray import serve
from starlette.responses import Response

from serving.service import ServiceConfig


@serve.ingress()
class EmptyReplica:
    """In the place of serving.deployment.Replica."""

    def __init__(self, config: ServiceConfig) -> None:
        self._config = config

    async def __serve_build_asgi_app__(self) -> FastAPI:
        app = FastAPI()

        @app.post("/v1/events")
        async def take(request: Request) -> Response:
            await request.body()
            return Response(b'{"accepted":1}', 202, media_type="application/json")

        return app
