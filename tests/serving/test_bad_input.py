# Bad input: each gets an answer that names the field, the rest goes on, and nothing gives a 500.
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.registry import MODELS
from serving.admission import AdmissionConfig
from serving.intake import IntakeConfig
from serving.service import ServiceConfig
from tests.serving.helpers import NOW, JsonEvent, Loop, item, open_loop, problem, view


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    with open_loop(tmp_path_factory.mktemp("home")) as loop:
        loop.settle()
        yield loop


BAD_EVENTS: list[tuple[str, object, str, str]] = [
    ("a missing field", {"type": "view", "user_id": "u", "timestamp": NOW}, "item_id", "missing"),
    ("a wrong type", view("u", "i") | {"dwell_ms": "long"}, "dwell_ms", "int"),
    ("an unknown signal", view("u", "i") | {"type": "wink"}, "type", "view, skip, like"),
    ("a timestamp in seconds", view("u", "i") | {"timestamp": NOW // 1000}, "timestamp", "seconds"),
    ("a timestamp of next year", view("u", "i") | {"timestamp": NOW + 365 * 86_400_000}, "timestamp", "ahead"),
    ("a time without offset", view("u", "i") | {"timestamp": "2026-01-01T00:00:00"}, "timestamp", "timezone"),
    ("an empty id", view("", "i"), "user_id", "length"),
    ("an id of 257 bytes", view("u", "é" * 129), "item_id", "256"),
    ("an event over 64 KiB", view("u", "i") | {"context": {"a": "x" * 66_000}}, "", "65536"),
    ("something that is no event", 5, "", "object"),
    ("a slate, which only servers write", {"type": "slate", "user_id": "u", "timestamp": NOW, "request_id": "r",
      "version": 1, "items": [], "sources": [], "propensities": []}, "type", "servers"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("event", "field", "words"), [row[1:] for row in BAD_EVENTS], ids=[row[0] for row in BAD_EVENTS]
)
def test_a_bad_event_is_rejected_by_name_and_the_rest_of_the_call_is_accepted(
    loop: Loop, event: object, field: str, words: str
) -> None:
    before, after = view("u", "a", at=1), view("u", "b", at=2)
    response = loop.client.post("/v1/events", {"events": [before, event, after]})
    assert response.status_code == 202
    reply = response.json()
    assert [result["status"] for result in reply["results"]] == ["accepted", "rejected", "accepted"]
    assert reply["accepted"] == 2
    rejected = reply["results"][1]
    assert rejected.get("field", "") == field
    assert field in rejected["reason"]
    assert words in rejected["reason"]


def test_a_bare_bad_event_is_rejected_with_its_event_id(loop: Loop) -> None:
    response = loop.client.post("/v1/events", view("u", "i") | {"type": "wink", "event_id": "e-1"})
    assert response.status_code == 202
    assert response.json()["results"][0]["event_id"] == "e-1"
    assert response.json()["accepted"] == 0


BAD_CALLS: list[tuple[str, str, str, bytes, int, str]] = [
    ("events that are not JSON", "POST", "/v1/events", b'{"events": [', 400, ""),
    ("events that are not UTF-8", "POST", "/v1/events", b'{"events": [{"user_id": "\xff"}]}', 202, ""),
    ("an empty body", "POST", "/v1/events", b"", 400, ""),
    ("events that are no array", "POST", "/v1/events", b'{"events": 5}', 422, "events"),
    ("a recommendation without user", "POST", "/v1/recommendations", b"{}", 422, "user_id"),
    ("a user id that is no string", "POST", "/v1/recommendations", b'{"user_id": 5}', 422, "user_id"),
    ("an empty user id", "POST", "/v1/recommendations", b'{"user_id": ""}', 422, "user_id"),
    ("a user id of too many bytes", "POST", "/v1/recommendations", b'{"user_id": "' + "é".encode() * 129 + b'"}', 422,
     "user_id"),
    ("no items at all", "POST", "/v1/recommendations", b'{"user_id": "u", "n": 0}', 422, "n"),
    ("too many items", "POST", "/v1/recommendations", b'{"user_id": "u", "n": 1001}', 422, "n"),
    ("a fraction of an item", "POST", "/v1/recommendations", b'{"user_id": "u", "n": 1.5}', 422, "n"),
    ("an unknown model", "POST", "/v1/recommendations", b'{"user_id": "u", "model": "oracle"}', 422, "model"),
    ("a filter of a wrong type", "POST", "/v1/recommendations", b'{"user_id": "u", "filter": {"categories": "a"}}', 422,
     "filter.categories"),
    ("a bad session event", "POST", "/v1/recommendations",
     b'{"user_id": "u", "session": [{"type": "view", "user_id": "u", "item_id": "i", "timestamp": 5}]}', 422,
     "session[0].timestamp"),
    ("an array for an object", "POST", "/v1/recommendations", b"[]", 422, ""),
    ("deep nesting", "POST", "/v1/events", b"[" * 100_000, 400, ""),
    ("similar items without item", "POST", "/v1/similar-items", b"{}", 422, "item_id"),
    ("items similar to an unknown one", "POST", "/v1/similar-items", b'{"item_id": "nobody-sent-it"}', 404, "item_id"),
    ("items without the array", "PUT", "/v1/items", b"{}", 422, "items"),
    ("items that are not JSON", "PUT", "/v1/items", b"items", 400, ""),
    ("an unknown item", "GET", "/v1/items/nobody-sent-it", b"", 404, "item_id"),
    ("an unknown user", "GET", "/v1/users/nobody", b"", 404, "user_id"),
    ("a user id too long to exist", "DELETE", "/v1/users/" + "u" * 257, b"", 422, "user_id"),
    ("an item id too long to exist", "DELETE", "/v1/items/" + "i" * 257, b"", 422, "item_id"),
    ("a user id too long to be read", "GET", "/v1/users/" + "u" * 600, b"", 404, "user_id"),
    ("an unknown path", "GET", "/v2/nothing", b"", 404, ""),
    ("a method that a call does not have", "DELETE", "/v1/events", b"", 405, ""),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "status", "field"), [row[1:] for row in BAD_CALLS],
                         ids=[row[0] for row in BAD_CALLS])  # fmt: skip
def test_a_bad_call_gets_a_problem_document_that_names_the_field(
    loop: Loop, method: str, path: str, body: bytes, status: int, field: str
) -> None:
    response = loop.client.request(method, path, content=body)
    assert response.status_code == status
    if status >= 400:
        document = problem(response)
        assert document.get("field", "") == field
        assert field.split("[")[0] in str(document["detail"])


def test_an_unknown_model_is_told_the_names_of_the_models_there_are(loop: Loop) -> None:
    response = loop.client.post("/v1/recommendations", {"user_id": "u", "model": "oracle"})
    assert str(problem(response)["detail"]).endswith(f"the models are {', '.join(sorted(MODELS))}")


def test_ten_thousand_events_in_one_call_are_accepted(loop: Loop) -> None:
    response = loop.send(*(view("bulk", f"i{number % 50}", at=number) for number in range(10_000)))
    assert response.status_code == 202
    assert response.json()["accepted"] == 10_000


def test_more_events_than_allowed_in_one_call_get_413(loop: Loop) -> None:
    response = loop.client.post("/v1/events", {"events": [view("u", "i")] * 10_001})
    document = problem(response)
    assert response.status_code == 413
    assert document["field"] == "events"
    assert "10000" in str(document["detail"])


def test_more_items_than_allowed_in_one_call_get_413(tmp_path: Path) -> None:
    config = ServiceConfig(tmp_path, intake=IntakeConfig(max_events=3))
    with open_loop(tmp_path, config) as loop:
        response = loop.client.request("PUT", "/v1/items", {"items": [item("a")] * 4})
        assert problem(response)["field"] == "items"
        assert response.status_code == 413


@pytest.mark.parametrize("path", ["/v1/events", "/v1/recommendations", "/v1/items"])
def test_a_body_over_the_limit_gets_413_whatever_the_call(tmp_path: Path, path: str) -> None:
    with open_loop(tmp_path, ServiceConfig(tmp_path, admission=AdmissionConfig(max_body_bytes=1000))) as loop:
        response = loop.client.request("PUT" if path == "/v1/items" else "POST", path, content=b" " * 1001)
        assert response.status_code == 413
        assert "1000 bytes" in str(problem(response)["detail"])


def test_an_unknown_user_gets_a_slate(loop: Loop) -> None:
    loop.send(*(view("somebody", f"i{number}", at=number) for number in range(30)))
    loop.settle()
    assert len(loop.client.items("never-heard-of", n=10)) == 10


def test_an_empty_catalogue_gives_an_empty_slate(tmp_path: Path) -> None:
    with open_loop(tmp_path) as loop:
        loop.settle()
        reply = loop.client.recommend("u")
        assert reply["items"] == []
        assert reply["model_age_ms"] is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
FIELDS = [
    "user_id",
    "n",
    "session",
    "candidates",
    "exclude",
    "filter",
    "context",
    "model",
    "explain",
    "events",
    "item_id",
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6),
    st.sampled_from(["events", "recommendations", "similar-items"]),
)
def test_no_json_gives_a_500(loop: Loop, body: JsonEvent, call: str) -> None:
    response = loop.client.post(f"/v1/{call}", body)
    assert response.status_code < 500
    if response.status_code >= 400:
        problem(response)
