# Hostile inputs: calls made of valid ones by replacing values, dropping and repeating fields, and breaking bytes.
from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote_from_bytes, unquote

import msgspec
from fastapi import FastAPI
from starlette.types import Message, Scope

NOW = b"1763645400000"
# Values that fit nowhere, or somewhere else. Words of one line are apart by spaces.
_NUMBERS = b"""null true false 0 -0 -1 1 1.5 1e3 1e308 1e309 -1e400 1E-400 NaN Infinity -Infinity 01 0x10 1_000
 65535 4294967295 946684800000 99999999999999 9223372036854775807 9223372036854775808 18446744073709551615
 18446744073709551616 -9223372036854775809"""
_STRINGS = rb"""'' "" "0" "a" "\u0000" "\ud800" "\udfff\ud800" "\ud83d\ude00" "\x" "\u12" 'a' "2026-13-45T99:99:99Z"
 "9999-12-31T23:59:59.999999+00:00" "0001-01-01T00:00:00Z" "2025-11-20T12:00:00" "2025-11-20T12:00:00+25:00"
 "2025-11-20T12:00:00Z" "view" "item" "item_delete" "user_delete" "impression" "slate" "popularity" "wink" """
_NESTED = rb"""[] {} [[]] {"":null} {"a":1,"a":2} ["a","a"] ["a",1] [null] [1e400] ["\ud800"] }"""
VALUES: tuple[bytes, ...] = (
    *_NUMBERS.split(),
    *_STRINGS.split(),
    *_NESTED.split(),
    *(b"", b"9" * 400, b"-" + b"9" * 30, b'" "', b'"\t"', b'"\x00"'),
    *(b'"\xff\xfe"', b'"\xc3\x28"', b'"\xed\xa0\x80"'),  # not UTF-8
    *(b'"' + b"x" * 257 + b'"', b'"' + "é".encode() * 129 + b'"', b'"' + b"y" * 70_000 + b'"'),
    *(b"[" * 300 + b"]" * 300, b'{"a":' * 300 + b"1" + b"}" * 300, b"[" * 5000),
)
Fields = dict[bytes, bytes]


def _fields(text: bytes) -> Fields:
    """The fields of an object whose values hold no space."""
    return {name: value for name, _, value in (pair.partition(b"=") for pair in text.split())}


VIEW = _fields(
    b'type="view" user_id="u1" item_id="i1" timestamp=' + NOW + b' event_id="e1" dwell_ms=5300 duration_ms=15000 '
    b'session_id="s" request_id="r" position=3 value=1.0 context={"d":"ios"}'
)
IMPRESSION = _fields(
    b'type="impression" user_id="u1" timestamp=' + NOW + b' request_id="r" positions=[0,1] items=["i1"]'
)
ITEM = _fields(
    b'type="item" item_id="i1" timestamp=' + NOW + b' title="A" categories=["a"] tags=["t"] published_at=' + NOW + b" "
    b'duration_ms=1 available=true features={"lang":"en","n":1} embedding=[0.5,1]'
)
DELETION = _fields(b'type="user_delete" user_id="u2" timestamp=' + NOW)
SLATE = _fields(
    b'user_id="u1" n=5 session=[] candidates=["i1","i2"] exclude=["i3"] filter={"categories":["a"]} '
    b'context={} model="" explain=true'
)
EVENTS = (VIEW, VIEW, IMPRESSION, ITEM, DELETION)
IDS = (
    *b"u1 i1 .. ../.. // a/b % %zz ? #".split(),
    *(b"", b" ", b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"x" * 257, b"x" * 5000),
)
HEADERS: tuple[tuple[bytes, bytes], ...] = (
    *((b"content-type", value) for value in (b"application/xml", b"\xff", b"application/json; charset=utf-16")),
    *((b"content-length", value) for value in (b"-1", b"9" * 40, b"abc")),
    *((name, b"\xff\xff") for name in (b"authorization", b"x-api-key", b"accept", b"host")),
    (b"content-encoding", b"gzip"),
    (b"transfer-encoding", b"chunked"),
    (b"cookie", b"a" * 8000),
    (b"range", b"bytes=0-"),
    (b"expect", b"100-continue"),
)


@dataclass(frozen=True)
class Call:
    """One call as it comes over the wire; `events` is how many hostile events its body holds."""

    method: str
    path: str  # percent-encoded
    body: bytes = b""
    query: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    events: int = 0


@dataclass
class Answer:
    """What came back."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""


def hostile_calls(seed: int) -> Iterator[Call]:
    """Calls without end, the same for the same seed: one in four looks up or deletes, the others bring a body."""
    rng = random.Random(seed)
    while True:
        yield rng.choice((_lookup, _slate, _similar, _events))(rng)


def hostile_events(seed: int, size: int) -> Iterator[Call]:
    """POSTs of `size` hostile events each, all of which are JSON by themselves, so that each is judged alone."""
    rng = random.Random(seed)
    values = [value for value in VALUES if _is_json(value)]
    while True:
        events = [_object(rng, rng.choice(EVENTS), values) for _ in range(size)]
        yield Call("POST", "/v1/events", b"[" + b",".join(events) + b"]", events=size)


async def ask(app: FastAPI, call: Call) -> Answer:
    """The app's answer, as a server that speaks ASGI would get it; the body comes in two pieces."""
    answer = Answer()
    half = len(call.body) // 2
    pieces = [(call.body[:half], True), (call.body[half:], False)]

    async def receive() -> Message:
        body, more = pieces.pop(0) if pieces else (b"", False)
        return {"type": "http.request", "body": body, "more_body": more}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status, answer.headers = message["status"], dict(message["headers"])
        else:
            answer.body += message.get("body", b"")

    scope: Scope = {"type": "http", "scheme": "http", "http_version": "1.1", "server": ("test", 80), "root_path": ""}
    scope.update({"method": call.method, "path": unquote(call.path), "raw_path": call.path.encode()})
    scope.update({"query_string": call.query, "headers": list(call.headers)})
    await app(scope, receive, send)
    return answer


def fault_of(call: Call, answer: Answer) -> str:
    """What is wrong with an answer; empty where nothing is."""
    if answer.status >= 500:
        return f"status {answer.status}"
    if answer.status < 400:
        results = msgspec.json.decode(answer.body)["results"] if call.events else []
        if len(results) != call.events:
            return f"{len(results)} verdicts on {call.events} events"
        return "" if all(each["status"] != "rejected" or each.get("reason") for each in results) else "no reason"
    if call.method == "HEAD":
        return ""
    if answer.headers.get(b"content-type") != b"application/problem+json":
        return "no problem document"
    problem = msgspec.json.decode(answer.body)
    if problem["status"] != answer.status or not problem["detail"] or not problem["title"]:
        return "an incomplete problem document"
    is_named = problem.get("field") or answer.status != 422 or problem["detail"].startswith("the body: ")
    return "" if is_named else "names no field"


def _is_json(value: bytes) -> bool:
    try:
        json.loads(value)
        msgspec.json.decode(value, type=msgspec.Raw)
    except (ValueError, RecursionError):
        return False
    return len(value) < 60_000


def _lookup(rng: random.Random) -> Call:
    path = rng.choice(("/v1/users/", "/v1/items/", "/v1/", "/", "/v1/model", "/docs", "/openapi.json", "/metrics/"))
    path += quote_from_bytes(rng.choice(IDS), safe=rng.choice(("", "/")))
    method = rng.choice(("GET", "GET", "DELETE", "HEAD", "POST", "PATCH", "OPTIONS", "TRACE", "BREW"))
    return Call(method, path, b"", rng.choice((b"", b"a=%ff", b"&&&=\xff")), _headers(rng))


def _slate(rng: random.Random) -> Call:
    body = _object(rng, SLATE, VALUES)
    if rng.random() < 0.3:  # a session of hostile events
        body = b'{"user_id":"u1","session":[' + _object(rng, rng.choice(EVENTS), VALUES) + b"]}"
    return Call("POST", "/v1/recommendations", _broken(rng, body), headers=_headers(rng))


def _similar(rng: random.Random) -> Call:
    return Call("POST", "/v1/similar-items", _broken(rng, _object(rng, {b"item_id": b'"i1"', b"n": b"5"}, VALUES)))


def _events(rng: random.Random) -> Call:
    events = [_object(rng, rng.choice(EVENTS), VALUES) for _ in range(rng.randrange(4))]
    if rng.random() < 0.3:
        return Call("PUT", "/v1/items", _broken(rng, b'{"items":[' + b",".join(events) + b"]}"), headers=_headers(rng))
    body = b'{"events":[' + b",".join(events) + b"]}" if rng.random() < 0.8 else b",".join(events)
    return Call("POST", "/v1/events", _broken(rng, body), headers=_headers(rng))


def _headers(rng: random.Random) -> tuple[tuple[bytes, bytes], ...]:
    return (rng.choice(HEADERS),) if rng.random() < 0.2 else ()


def _object(rng: random.Random, valid: Fields, values: Sequence[bytes]) -> bytes:
    """A valid object with one to three wounds."""
    pairs = list(valid.items())
    for _ in range(rng.choice((1, 1, 2, 3))):
        place = rng.randrange(len(pairs))
        wound = rng.random()
        if wound < 0.6:
            pairs[place] = (pairs[place][0], rng.choice(values))
        elif wound < 0.7 and len(pairs) > 1:
            del pairs[place]
        elif wound < 0.8:
            pairs.append((pairs[place][0], rng.choice(values)))  # the same field twice
        else:
            pairs.append((rng.choice((b"x", b"", b"\\u0000", b"\\ud800", b"user_id")), rng.choice(values)))
    return b"{" + b",".join(b'"' + name + b'":' + value for name, value in pairs) + b"}"


def _broken(rng: random.Random, body: bytes) -> bytes:
    """Now and then the bytes themselves are broken."""
    if rng.random() < 0.8 or not body:
        return body
    place = rng.randrange(len(body))
    return rng.choice(
        (
            body[:place],
            body[:place] + bytes([rng.randrange(256)]) + body[place + 1 :],
            b"\xef\xbb\xbf" + body,
            body + b"\x00",
            body + body,
            b" \t\r\n" * 100 + body,
            body.decode("latin-1").encode("utf-16"),
            b"",
        )
    )
