# OpenAPI descriptions of bodies that msgspec decodes, so that /openapi.json tells what the service really takes.
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

import msgspec
from fastapi import FastAPI

from serving import schemas
from serving.guard import rights_for
from serving.problems import ProblemDocument

_KEY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_REFERENCE = "#/components/schemas/{name}"
_KINDS = (
    schemas.RecommendationRequest,
    schemas.SlateReply,
    schemas.SimilarItemsRequest,
    schemas.SimilarItemsReply,
    schemas.EventsRequest,
    schemas.EventsReply,
    schemas.ItemsRequest,
    schemas.ItemReply,
    schemas.OffsetReply,
    schemas.UserReply,
    schemas.ModelReply,
    schemas.Readiness,
    ProblemDocument,
)


class Description(TypedDict, total=False):
    """Keyword arguments of a FastAPI route."""

    status_code: int
    summary: str
    openapi_extra: dict[str, object]
    responses: dict[int | str, dict[str, object]]


def describe(
    summary: str, reply: type | None = None, body: type | None = None, status: int = 200, problems: Sequence[int] = ()
) -> Description:
    """What a route takes and gives, by the Structs that it decodes and encodes."""
    description = Description(status_code=status, summary=summary, responses={})
    if body is not None:
        description["openapi_extra"] = {"requestBody": {"required": True, "content": _content(body)}}
    if reply is not None:
        description["responses"][status] = {"description": summary, "content": _content(reply)}
    for problem in problems:
        content = _content(ProblemDocument, "application/problem+json")
        description["responses"][problem] = {"description": "a problem document", "content": content}
    return description


def install_openapi(app: FastAPI, has_keys: bool) -> None:
    """Make the app's OpenAPI document know the schemas that `describe` refers to, and the keys that calls need."""
    plain = app.openapi

    def openapi() -> dict[str, object]:
        document: dict[str, object] = plain()
        _, components = msgspec.json.schema_components(_KINDS, ref_template=_REFERENCE)
        held = document.setdefault("components", {})
        assert isinstance(held, dict)
        held["schemas"] = {**held.get("schemas", {}), **components}
        if has_keys:
            held["securitySchemes"] = _KEY_SCHEMES
            _describe_rights(document)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _describe_rights(document: Mapping[str, object]) -> None:
    paths = document["paths"]
    assert isinstance(paths, dict)
    for path, operations in paths.items():
        for method, operation in operations.items():
            if rights := rights_for(method.upper(), path):
                operation["security"] = [{name: []} for name in _KEY_SCHEMES]
                operation["description"] = f"Needs a key with the right {' or '.join(sorted(rights))}."
                for status in ("401", "403"):
                    content = _content(ProblemDocument, "application/problem+json")
                    operation["responses"][status] = {"description": "a problem document", "content": content}


def _content(kind: type, media_type: str = "application/json") -> Mapping[str, object]:
    return {media_type: {"schema": {"$ref": _REFERENCE.format(name=kind.__name__)}}}
