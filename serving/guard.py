# The guard: lets a call pass where its API key has the right that the call needs.
from __future__ import annotations

from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.keys import ALL_RIGHTS, ApiKey, find_key
from serving.problems import Problem, problem_response

OPEN_PATHS = frozenset({"/", "/healthz", "/readyz", "/docs", "/docs/oauth2-redirect", "/openapi.json"})
_SCOPE_RIGHTS = "runnel.rights"
_ANY = frozenset({"events", "recommendations", "administration"})
_RIGHTS: dict[tuple[str, str], frozenset[str]] = {
    ("POST", "/v1/events"): frozenset({"events"}),
    ("PUT", "/v1/items"): frozenset({"events"}),
    ("POST", "/v1/recommendations"): frozenset({"recommendations"}),
    ("POST", "/v1/similar-items"): frozenset({"recommendations"}),
    ("GET", "/v1/items/"): frozenset({"recommendations"}),
    ("GET", "/v1/model"): _ANY,
    ("GET", "/metrics"): frozenset({"metrics"}),
}


def rights_for(method: str, path: str) -> frozenset[str]:
    """The rights of which one opens a call; none for what is open to all. What nobody has thought of, and everything
    about one user, needs `administration`."""
    if path in OPEN_PATHS:
        return frozenset()
    if path.startswith("/v1/items/"):
        path = "/v1/items/"
    return _RIGHTS.get((method, path), frozenset({"administration"}))


def rights_of(scope: Scope) -> frozenset[str]:
    """The rights of who makes a request that the guard let pass; all of them where no keys are asked for."""
    rights: frozenset[str] = scope.get(_SCOPE_RIGHTS, ALL_RIGHTS)
    return rights


class Guard:
    """ASGI middleware: 401 without a key that is known, 403 where the key lacks the right. Does nothing without keys.

    A key comes as `Authorization: Bearer KEY` or `X-API-Key: KEY`.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[ApiKey]) -> None:
        self._app, self._keys = app, tuple(keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._keys and scope["type"] != "lifespan":
            problem = self._refusal(scope)
            if problem is not None:
                return await problem_response(problem)(scope, receive, send)
        return await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Problem | None:
        needed = rights_for(scope.get("method", ""), scope["path"])
        if not needed:
            return None
        secret = _secret(scope)
        key = find_key(self._keys, secret) if secret else None
        if key is None:
            detail = "this call needs an API key: `Authorization: Bearer KEY` or `X-API-Key: KEY`"
            return Problem(401, detail, headers={"WWW-Authenticate": "Bearer"})
        if not needed & key.rights:
            return Problem(403, f"the API key {key.name!r} lacks the right {' or '.join(sorted(needed))}")
        scope[_SCOPE_RIGHTS] = key.rights
        return None


def _secret(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            return str(value.decode("latin-1").strip())
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return str(value[7:].decode("latin-1").strip())
    return ""
