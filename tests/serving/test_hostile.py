# Hostile input in its short form: no 500, no hang, refusals that explain, and nothing accepted that a stage chokes on.
from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Protocol

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from benchmarks.hostile_inputs import EVENTS, VALUES, Call, ask, fault_of, hostile_calls, hostile_events
from serving.app import build_app
from serving.split import cut_array
from state.signals import SignalTable
from stream.event import EventDecoder
from tests.serving.helpers import NOW, Loop, open_loop, view, wait_until

TIMES = int(os.environ.get("HOSTILE_TIMES", "1"))  # so many times the examples that are bred, drawn anew each time
DOCUMENTED = [
    ("POST", "/v1/events"), ("POST", "/v1/recommendations"), ("POST", "/v1/similar-items"), ("PUT", "/v1/items"),
    ("GET", "/v1/items/{item_id}"), ("DELETE", "/v1/items/{item_id}"), ("GET", "/v1/users/{user_id}"),
    ("DELETE", "/v1/users/{user_id}"),
]  # fmt: skip


class Sendable(Protocol):
    """What is needed of a case that schemathesis made."""

    def as_transport_kwargs(self, *, base_url: str) -> Mapping[str, object]:
        """Keyword arguments of an HTTP client's request."""
        ...


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    with open_loop(tmp_path_factory.mktemp("home")) as loop:
        loop.send(*(view(f"u{number}", f"i{number % 7}", at=number) for number in range(50)))
        loop.settle()
        yield loop


def check(loop: Loop, calls: Iterable[Call]) -> None:
    app = build_app(loop.service)

    async def play() -> None:
        for call in calls:
            answer = await ask(app, call)
            assert fault_of(call, answer) == "", (call, answer)

    asyncio.run(play())


def test_broken_calls_are_refused_with_a_problem_that_names_the_field(loop: Loop) -> None:
    check(loop, islice(hostile_calls(seed=1), 4000))


def test_broken_events_get_one_verdict_each(loop: Loop) -> None:
    check(loop, islice(hostile_events(seed=2, size=40), 200))


def test_what_was_accepted_of_it_is_folded_and_learned_without_a_word(loop: Loop) -> None:
    check(loop, islice(hostile_calls(seed=3), 1000))
    check(loop, islice(hostile_events(seed=3, size=40), 100))
    rejected = 0
    while (result := loop.fold.step()).num_messages:
        rejected += result.num_rejected
    assert rejected == 0
    loop.settle()
    assert loop.client.get("/readyz").json()["status"] == "ready"


@pytest.mark.parametrize("mode", [GenerationMode.NEGATIVE, GenerationMode.POSITIVE], ids=["broken", "valid"])
@pytest.mark.parametrize(("method", "path"), DOCUMENTED)
def test_the_openapi_document_breeds_no_call_that_breaks_the_service(
    loop: Loop, method: str, path: str, mode: GenerationMode
) -> None:
    if method in ("GET", "DELETE") and mode is GenerationMode.NEGATIVE:
        return  # every path is a valid id
    app = build_app(loop.service)
    operation = schemathesis.openapi.from_dict(app.openapi())[path][method]

    @settings(
        max_examples=60 * TIMES,
        deadline=None,
        database=None,
        derandomize=TIMES == 1,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def play(case: Sendable) -> None:
        sent = case.as_transport_kwargs(base_url="http://runnel")
        data = sent.get("data")
        body = data if isinstance(data, bytes) else json.dumps(sent.get("json")).encode()
        call = Call(method, str(sent["url"]).removeprefix("http://runnel"), body if method in ("POST", "PUT") else b"")
        answer = asyncio.run(ask(app, call))
        assert fault_of(call, answer) == ""

    play()


def wounded(event: Mapping[bytes, bytes], place: int, value: bytes) -> bytes:
    pairs = [(name, value if place == index else good) for index, (name, good) in enumerate(event.items())]
    return b"{" + b",".join(b'"' + name + b'":' + good for name, good in pairs) + b"}"


WOUNDED = st.builds(
    wounded,
    st.sampled_from(EVENTS),
    st.integers(0, 12),
    st.sampled_from(VALUES),
)


@settings(max_examples=400 * TIMES, deadline=None, derandomize=TIMES == 1)
@given(st.lists(WOUNDED | st.binary(max_size=60), max_size=5))
def test_the_decoder_judges_whatever_bytes_there_are(raws: list[bytes]) -> None:
    decoder = EventDecoder(SignalTable())
    for value in (*raws, b"[" + b",".join(raws) + b"]"):
        decoded = decoder.decode(value, NOW)
        assert all(reject.reason for reject in decoded.rejected)
        assert all(isinstance(event.timestamp, int) for event in decoded.events)


@pytest.mark.parametrize(
    "value", [b"NaN", b"-Infinity", b'"\\ud800"', b'"\xff"', b'"\x00"', b"1e999", b"[" * 400 + b"]" * 400]
)
def test_an_event_that_is_not_json_is_refused_alone(loop: Loop, value: bytes) -> None:
    good = json.dumps(view("alone", "i1")).encode()
    bad = good.replace(b'"i1"', value)
    answers = [
        loop.client.request("POST", "/v1/events", content=body)
        for body in (
            b'{"events": [' + good + b"," + bad + b"," + good + b"]}",
            b"[" + good + b" , " + bad + b"," + good + b"]",
        )
    ]
    for answer in answers:
        assert [result["status"] for result in answer.json()["results"]] == ["accepted", "rejected", "accepted"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("features", {"a": 10**30}), ("features", {"a": -(2**60)}), ("published_at", 2**60), ("embedding", [1e39])],
)
def test_a_number_that_no_store_holds_is_refused_by_name(loop: Loop, field: str, value: object) -> None:
    item = {"item_id": "i1", "timestamp": NOW, field: value}
    body = json.dumps({"items": [item]}).encode()
    reply = loop.client.request("PUT", "/v1/items", content=body)
    (result,) = reply.json()["results"]
    assert result["status"] == "rejected"
    assert result["field"].startswith(field)


@given(
    st.lists(
        st.recursive(
            st.integers() | st.text(max_size=5) | st.floats(), lambda inner: st.lists(inner, max_size=3), max_leaves=5
        ),
        max_size=5,
    )
)
def test_an_array_is_cut_where_its_elements_end(elements: list[object]) -> None:
    raws = [json.dumps(element).encode() for element in elements]
    assert cut_array(b'{"events": [1]}', "items") is None
    for start, end in ((b"[", b"]"), (b' {"events" :\n[ ', b" ] } ")):
        assert cut_array(start + b" , ".join(raws) + end, "events") == raws
        assert cut_array(start + b" , ".join(raws), "events") is None
        assert cut_array(start + b" , ".join(raws) + end + b"x", "events") is None
    assert cut_array(b"[1,]", "events") is None


def test_the_service_answers_as_before_afterwards(loop: Loop) -> None:
    loop.send(view("afterwards", "i3"))
    loop.settle()
    wait_until(lambda: loop.client.get("/v1/users/afterwards").status_code == 200, "the record is there")
    assert loop.client.items("afterwards", n=3)
