# Counts what was answered: calls by route and status, refusals included.
from __future__ import annotations

from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.metrics import ServingMetrics


class Counting:
    """ASGI middleware around all others."""

    def __init__(self, app: ASGIApp, metrics: ServingMetrics) -> None:
        self._app, self._metrics = app, metrics
        self._counts: dict[tuple[str, str, int], Counter] = {}  # by method, route and status; the labels cost 4 us

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "")  # the template: a path may name a user
                self._count(scope["method"] if route else "", route, message["status"])
            await send(message)

        await self._app(scope, receive, counted)

    def _count(self, method: str, route: str, status: int) -> None:
        count = self._counts.get((method, route, status))
        if count is None:
            count = self._metrics.requests.labels(f"{method} {route}".strip(), status)
            self._counts[method, route, status] = count
        count.inc()
