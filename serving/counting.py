# Counts what was answered: calls by route and status, refusals included.
from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.metrics import ServingMetrics


class Counting:
    """ASGI middleware around all others."""

    def __init__(self, app: ASGIApp, metrics: ServingMetrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "")  # the template: a path may name a user
                self._metrics.requests.labels(f"{scope['method']} {route}" if route else "", message["status"]).inc()
            await send(message)

        await self._app(scope, receive, counted)
