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

        has_begun = False

        async def counted(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                self._count(scope, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, counted)
        except Exception:
            if not has_begun:  # FastAPI answers it outside of all middleware
                self._count(scope, 500)
            raise

    def _count(self, scope: Scope, status: int) -> None:
        route = getattr(scope.get("route"), "path", "")  # the template: a path may name a user
        method = scope["method"] if route else ""
        count = self._counts.get((method, route, status))
        if count is None:
            count = self._metrics.requests.labels(f"{method} {route}".strip(), status)
            self._counts[method, route, status] = count
        count.inc()
