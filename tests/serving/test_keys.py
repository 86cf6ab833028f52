# API keys: who may call what, and that no key leaves a trace.
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.guard import rights_for
from serving.keys import (
    RIGHTS,
    ApiKey,
    KeysInvalid,
    KeysMissing,
    find_key,
    hash_key,
    is_loopback,
    parse_keys,
    require_keys,
)
from serving.service import ServiceConfig
from tests.serving.helpers import Loop, open_loop, problem, view

KEYS = tuple(ApiKey(right, frozenset({right}), hash_key(f"secret of {right}")) for right in RIGHTS)
CALLS = [
    ("POST", "/v1/events", "events"),
    ("PUT", "/v1/items", "events"),
    ("POST", "/v1/recommendations", "recommendations"),
    ("POST", "/v1/similar-items", "recommendations"),
    ("GET", "/v1/items/a", "recommendations"),
    ("DELETE", "/v1/items/a", "administration"),
    ("GET", "/v1/users/u", "administration"),
    ("DELETE", "/v1/users/u", "administration"),
    ("GET", "/metrics", "metrics"),
    ("GET", "/v1/what-comes-later", "administration"),
]


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    home = tmp_path_factory.mktemp("home")
    with open_loop(home, ServiceConfig(home, keys=KEYS)) as loop:
        yield loop


def call(loop: Loop, method: str, path: str, secret: str, header: str = "x-api-key") -> httpx.Response:
    headers = {header: f"Bearer {secret}" if header == "authorization" else secret} if secret else {}
    return loop.client.request(method, path, content=b"{}" if method in ("POST", "PUT") else b"", headers=headers)


@pytest.mark.parametrize(("method", "path", "right"), CALLS)
def test_a_call_passes_with_its_right_and_with_no_other(loop: Loop, method: str, path: str, right: str) -> None:
    for other in RIGHTS:
        response = call(loop, method, path, f"secret of {other}")
        assert (response.status_code == 403) == (other != right)
        if other != right:
            detail = str(problem(response)["detail"])
            assert right in detail
            assert "secret" not in detail


@pytest.mark.parametrize("secret", ["", "wrong", "secret of", hash_key("secret of events"), "é", "x" * 5000])
def test_without_a_known_key_every_call_gets_401_that_says_how(loop: Loop, secret: str) -> None:
    for method, path, _ in CALLS:
        for header in ("x-api-key", "authorization"):
            response = call(loop, method, path, secret, header)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            assert "X-API-Key" in str(problem(response)["detail"])


def test_both_headers_carry_a_key(loop: Loop) -> None:
    assert call(loop, "GET", "/metrics", "secret of metrics", "authorization").status_code == 200
    assert call(loop, "GET", "/metrics", "secret of metrics").status_code == 200


def test_liveness_readiness_and_the_documentation_stay_open(loop: Loop) -> None:
    for path in ("/healthz", "/readyz", "/", "/docs", "/openapi.json"):
        assert loop.client.get(path).status_code in (200, 503)


def test_any_right_to_data_tells_the_version(loop: Loop) -> None:
    assert call(loop, "GET", "/v1/model", "secret of events").status_code in (200, 503)
    assert call(loop, "GET", "/v1/model", "secret of metrics").status_code == 403


def test_an_event_that_deletes_needs_administration_and_the_others_of_the_call_pass(loop: Loop) -> None:
    now = loop.clock()
    deletions = [
        {"type": kind, f"{kind.split('_')[0]}_id": "x", "timestamp": now} for kind in ("user_delete", "item_delete")
    ]
    body = {"events": [view("u", "a"), *deletions]}
    refused = loop.client.request("POST", "/v1/events", body, headers={"x-api-key": "secret of events"}).json()
    assert [result["status"] for result in refused["results"]] == ["accepted", "rejected", "rejected"]
    assert "administration" in refused["results"][1]["reason"]
    assert refused["results"][1]["field"] == "type"


def test_the_openapi_document_declares_the_keys_for_every_call_that_needs_one(loop: Loop, tmp_path: Path) -> None:
    document = loop.client.get("/openapi.json").json()
    assert {scheme["type"] for scheme in document["components"]["securitySchemes"].values()} == {"http", "apiKey"}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert ("security" in operation) == bool(rights_for(method.upper(), path))
    with open_loop(tmp_path) as without:
        assert "securitySchemes" not in without.client.get("/openapi.json").json()["components"]


def test_a_line_of_the_keys_file_reads_back() -> None:
    text = "# who may what\n" + "\n".join(key.line() for key in KEYS) + "\n\n"
    assert parse_keys(text, "keys.txt") == KEYS
    assert parse_keys(";".join(key.line() for key in KEYS), "serve.keys") == KEYS


@pytest.mark.parametrize(
    "line", ["shop", "shop events", f"shop cooking {'0' * 64}", f"shop events {'0' * 63}", f"a , {'0' * 64}"]
)
def test_a_line_that_is_none_is_named_and_not_quoted(line: str) -> None:
    with pytest.raises(KeysInvalid, match=r"^keys\.txt, line 2: ") as caught:
        parse_keys(f"# keys\n{line}", "keys.txt")
    assert line.split()[-1] not in str(caught.value)


@settings(deadline=None)
@given(st.text(max_size=80))
def test_only_the_very_key_is_found(secret: str) -> None:
    assert find_key(KEYS, secret) is None
    key = ApiKey("drawn", frozenset({"events"}), hash_key(secret))
    assert find_key((*KEYS, key), secret) == key


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_no_keys_are_asked_for_on_loopback(host: str) -> None:
    assert is_loopback(host)
    require_keys(host, ())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_keys_are_asked_for_wherever_others_could_call(host: str) -> None:
    assert not is_loopback(host)
    require_keys(host, KEYS)
    with pytest.raises(KeysMissing, match="RUNNEL_SERVE__KEYS_FILE"):
        require_keys(host, ())
