# The calls for events, items, users and operations, over the whole loop in one process.
from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.base import Model
from serving.service import Service, ServiceConfig, open_service
from serving.versions import VersionsConfig
from state.signals import SignalTable
from state.store import Store
from state.view import View
from stream.fold import FoldStage
from stream.log import EventLog, LogSource
from stream.log_sink import LogSink
from stream.sink import SinkConfig
from stream.source import Message
from tests.serving.helpers import NOW, Client, JsonEvent, Loop, item, open_loop, problem, signal, view, wait_until


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    with open_loop(tmp_path) as loop:
        loop.settle()
        yield loop


def logged(loop: Loop) -> list[dict[str, object]]:
    """All events in the log."""
    messages: list[Message] = loop.log.read(0, 1000)
    return [event for message in messages for event in json.loads(message.value)]


def test_an_acknowledged_event_is_in_the_log(loop: Loop) -> None:
    response = loop.send(view("u", "a", event_id="e-1"))
    assert response.status_code == 202
    assert response.json()["results"] == [{"status": "accepted", "event_id": "e-1"}]
    assert logged(loop) == [view("u", "a", event_id="e-1")]


def test_only_accepted_events_are_logged_in_their_order(loop: Loop) -> None:
    good = [view("u", f"i{number}", at=number, context={"note": "x" * 900}) for number in range(120)]
    bad: JsonEvent = {"type": "wink"}
    mixed = [entry for event in good for entry in (event, bad)]
    assert loop.send(*mixed).json()["accepted"] == 120
    assert logged(loop) == good


def test_a_bare_event_and_an_array_are_taken_like_an_envelope(loop: Loop) -> None:
    assert loop.client.post("/v1/events", view("u", "a")).json()["accepted"] == 1
    assert loop.client.post("/v1/events", [view("u", "b"), view("u", "c")]).json()["accepted"] == 2
    assert len(logged(loop)) == 3


def test_the_offset_of_a_reply_is_where_the_record_holds_the_events(loop: Loop) -> None:
    offset = loop.send(view("u", "a")).json()["offset"]
    loop.send(view("other", "b", at=1))
    loop.fold.step()
    wait_until(lambda: loop.client.get("/v1/users/u").status_code == 200, "the record is there")
    user = loop.client.get("/v1/users/u").json()
    assert user["session_offset"] >= offset >= 1
    assert [entry["item_id"] for entry in user["sequence"]] == ["a"]


def test_an_event_the_record_holds_is_a_duplicate_and_not_logged_again(loop: Loop) -> None:
    events = [view("u", "a", at=1), view("u", "b", at=2, event_id="e-2")]
    loop.send(*events)
    loop.settle()
    end = loop.log.end_offset()
    reply = loop.send(*events, view("u", "older", at=0), view("u", "newer", at=3)).json()
    assert [result["status"] for result in reply["results"]] == ["duplicate", "duplicate", "accepted", "accepted"]
    assert reply["accepted"] == 2
    assert loop.log.end_offset() == end + 1
    again = loop.send(*events).json()
    assert again["accepted"] == 0
    assert again["offset"] == end  # nothing to wait for: what was folded up to here holds them


def test_a_log_that_is_behind_gets_503_with_retry_after(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log")
    sink = LogSink(log, lambda: NOW, SinkConfig(max_pending_bytes=10))
    view_of_nothing: View[Model] = View(tmp_path / "fold", tmp_path / "learn", lambda _: {})
    service = Service(ServiceConfig(tmp_path), view_of_nothing, sink, lambda: NOW, SignalTable())
    client = Client(service)
    try:
        response = client.post("/v1/events", view("u", "a"))
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        assert "behind" in str(problem(response)["detail"])
    finally:
        client.close()
        service.close()
        log.close()


def test_events_are_accepted_before_there_is_any_store(tmp_path: Path) -> None:
    service = open_service(ServiceConfig(tmp_path, versions=VersionsConfig(retry_seconds=0.01)))
    client = Client(service)
    try:
        assert client.post("/v1/events", view("u", "a")).status_code == 202
        for path in ("/readyz", "/v1/model", "/v1/users/u", "/v1/items/a"):
            response = client.get(path)
            assert response.status_code == 503
            assert response.headers["retry-after"] == "1"
            assert "fold" in str(problem(response)["detail"])
        assert client.post("/v1/recommendations", {"user_id": "u"}).status_code == 503
        assert client.get("/healthz").status_code == 200
        with Store(tmp_path / "fold", "fold", writer=True) as store:
            log = EventLog(tmp_path / "second")
            FoldStage(store, LogSource(log), SignalTable())
            log.close()
        wait_until(lambda: client.get("/readyz").status_code == 200, "the new store is found")
    finally:
        client.close()
        service.close()


def test_a_store_of_a_newer_format_is_named_and_the_service_stays_up(tmp_path: Path) -> None:
    with Store(tmp_path / "fold", "fold", writer=True) as store, store.write() as txn:
        store.put_meta(txn, "format", 999)
    service = open_service(ServiceConfig(tmp_path, versions=VersionsConfig(retry_seconds=0.01)))
    client = Client(service)
    try:
        wait_until(lambda: "999" in client.get("/readyz").text, "the reason is known")
        response = client.get("/readyz")
        assert response.status_code == 503
        assert str(tmp_path / "fold") in str(problem(response)["detail"])
        assert client.get("/healthz").status_code == 200
    finally:
        client.close()
        service.close()


def test_an_item_put_is_found_and_deleted(loop: Loop) -> None:
    document = item("a/b?c", title="A", categories=["x"], features={"lang": "en"}, published_at=NOW)
    reply = loop.client.request("PUT", "/v1/items", {"items": [document, {"item_id": 5}, 7]})
    assert reply.status_code == 202
    assert [result["status"] for result in reply.json()["results"]] == ["accepted", "rejected", "rejected"]
    assert reply.json()["results"][0]["item_id"] == "a/b?c"
    assert reply.json()["results"][1]["field"] == "item_id"
    loop.settle()
    found = loop.client.get("/v1/items/a%2Fb%3Fc").json()
    assert found == {
        "item_id": "a/b?c", "timestamp": NOW - 7_200_000, "title": "A", "categories": ["x"], "published_at": NOW,
        "available": True, "features": {"lang": "en"},
    }  # fmt: skip
    deleted = loop.client.request("DELETE", "/v1/items/a%2Fb%3Fc")
    assert deleted.status_code == 202
    assert deleted.json()["item_id"] == "a/b?c"
    loop.settle()
    assert loop.client.get("/v1/items/a%2Fb%3Fc").status_code == 404


def test_an_item_without_timestamp_is_stamped_with_the_call(loop: Loop) -> None:
    loop.client.request("PUT", "/v1/items", {"items": [{"item_id": "a", "timestamp": NOW - 1}]})
    loop.client.request("PUT", "/v1/items", {"items": [{"item_id": "a", "title": "newer"}]})
    loop.settle()
    assert loop.client.get("/v1/items/a").json()["title"] == "newer"


def test_an_item_known_from_events_alone_is_found_by_its_id(loop: Loop) -> None:
    loop.send(view("u", "a"))
    loop.settle()
    assert loop.client.get("/v1/items/a").json() == {"item_id": "a"}


def test_a_user_s_record_is_told_newest_first(loop: Loop) -> None:
    loop.send(
        view("u", "a", at=1, dwell_ms=5300, duration_ms=15000, position=3),
        signal("dislike", "u", "b", at=2),
        signal("skip", "u", "c", at=3),
    )
    loop.settle()
    user = loop.client.get("/v1/users/u").json()
    assert [(entry["item_id"], entry["type"]) for entry in user["sequence"]] == [
        ("c", "skip"), ("b", "dislike"), ("a", "view"),
    ]  # fmt: skip
    assert user["sequence"][-1]["dwell_ms"] == 5300
    assert user["sequence"][-1]["position"] == 3
    assert user["disliked"] == ["b"]


def test_a_deleted_user_is_gone_from_the_offset_on_that_was_told(loop: Loop) -> None:
    loop.send(view("u", "a"), signal("dislike", "u", "b", at=1))
    loop.settle()
    reply = loop.client.request("DELETE", "/v1/users/u")
    assert reply.status_code == 202
    assert reply.json()["user_id"] == "u"
    loop.settle()
    assert loop.client.get("/v1/model").json()["folded_offsets"]["events-0"] >= reply.json()["offset"]
    assert loop.client.get("/v1/users/u").status_code == 404


def test_what_only_servers_write_is_not_counted_among_the_events(loop: Loop) -> None:
    loop.send(view("u", "a"), view("u", "b", at=1))
    loop.settle()
    loop.client.recommend("u")
    loop.settle_slates(1)
    assert loop.client.get("/v1/model").json()["events_total"] == 2


def test_readiness_and_liveness_say_so(loop: Loop) -> None:
    assert loop.client.get("/healthz").text == "alive\n"
    stages = {"fold": "running", "learn": "running"}
    assert loop.client.get("/readyz").json() == {"status": "ready", "model_version": 0, "stages": stages}


def test_a_replica_that_no_longer_follows_is_not_alive(tmp_path: Path) -> None:
    with open_loop(tmp_path) as loop:
        loop.service.versions.close()
        assert loop.client.get("/healthz").status_code == 503
        with pytest.raises(RuntimeError, match="follows new versions"):
            loop.service.check()


def test_metrics_tell_steps_events_and_the_version(loop: Loop) -> None:
    loop.send(view("u", "a"), {"type": "wink"})
    loop.settle()
    loop.client.recommend("u")
    wait_until(lambda: "runnel_model_version 1.0" in loop.client.get("/metrics").text, "the version is told")
    text = loop.client.get("/metrics").text
    assert 'runnel_http_events_total{status="accepted"} 1.0' in text
    assert 'runnel_http_events_total{status="rejected"} 1.0' in text
    assert 'runnel_requests_total{route="POST /v1/recommendations",status="200"} 1.0' in text
    steps = ("record", "session", "query", "sources", "filters", "score", "select", "respond", "log_slate")
    for step in steps:
        assert f'runnel_step_seconds_count{{step="{step}"}} 1.0' in text


def test_the_home_page_links_the_documentation_of_all_calls(loop: Loop) -> None:
    assert 'href="/docs"' in loop.client.get("/").text
    assert loop.client.get("/docs").status_code == 200
    document = loop.client.get("/openapi.json").json()
    calls = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert calls >= {
        ("POST", "/v1/events"), ("POST", "/v1/recommendations"), ("POST", "/v1/similar-items"), ("PUT", "/v1/items"),
        ("GET", "/v1/items/{item_id}"), ("DELETE", "/v1/items/{item_id}"), ("GET", "/v1/users/{user_id}"),
        ("DELETE", "/v1/users/{user_id}"), ("GET", "/v1/model"), ("GET", "/healthz"), ("GET", "/readyz"),
        ("GET", "/metrics"),
    }  # fmt: skip


def test_every_reference_of_the_openapi_document_leads_somewhere(loop: Loop) -> None:
    document = loop.client.get("/openapi.json").json()

    def references(node: object) -> Iterator[str]:
        if isinstance(node, dict):
            if "$ref" in node:
                yield node["$ref"]
            for inner in node.values():
                yield from references(inner)
        elif isinstance(node, list):
            for inner in node:
                yield from references(inner)

    found = set(references(document))
    assert "#/components/schemas/RecommendationRequest" in found
    assert "HTTPValidationError" not in document["components"]["schemas"]
    for reference in found:
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]
