# A whole loop in one process for the tests: log, fold and learn stages, service and HTTP client, on real stores.
from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec
import numpy as np

from models.registry import MODELS, build_models
from serving.app import build_app
from serving.service import Service, ServiceConfig
from serving.versions import VersionsConfig
from state.dictionary import Dictionary
from state.follower import StoreSource
from state.signals import SignalTable
from state.store import Store
from state.view import View
from stream.fold import FoldStage
from stream.learn import LearnStage
from stream.log import EventLog, LogSource
from stream.log_sink import LogSink

NOW = 1_763_649_000_000
JsonEvent = dict[str, object]


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now


class Client:
    """A blocking HTTP client of an app in this process."""

    def __init__(self, service: Service) -> None:
        self._runner = asyncio.Runner()
        transport = httpx.ASGITransport(build_app(service), raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://runnel")

    def request(
        self,
        method: str,
        path: str,
        json: object = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """One call."""
        body = msgspec.json.encode(json) if json is not None else content
        sent = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        return self._runner.run(self._client.request(method, path, content=body, headers=sent))

    def post(self, path: str, json: object) -> httpx.Response:
        """A POST with a JSON body."""
        return self.request("POST", path, json)

    def get(self, path: str) -> httpx.Response:
        """A GET."""
        return self.request("GET", path)

    def recommend(self, user: str, **fields: object) -> dict[str, object]:
        """A slate; fails the test where it is refused."""
        response = self.post("/v1/recommendations", {"user_id": user, **fields})
        assert response.status_code == 200, response.text
        reply: dict[str, object] = response.json()
        return reply

    def items(self, user: str, **fields: object) -> list[str]:
        """The slate's items, first place first."""
        items = self.recommend(user, **fields)["items"]
        assert isinstance(items, list)
        return [item["item_id"] for item in items]

    def close(self) -> None:
        """Close the client and its event loop."""
        self._runner.run(self._client.aclose())
        self._runner.close()


class Loop:
    """One home with everything in it; nothing moves unless `settle` is called."""

    def __init__(self, home: Path, config: ServiceConfig | None = None) -> None:
        self.clock = Clock()
        self.log = EventLog(home / "log")
        self.fold_store, self.learn_store = Store(home / "fold", "fold", True), Store(home / "learn", "learn", True)
        self.signals = SignalTable()
        self.fold = FoldStage(self.fold_store, LogSource(self.log), self.signals)
        folds = {"fold": StoreSource(self.fold_store)}
        self.learn = LearnStage(self.learn_store, folds, build_models(MODELS, 1), np.random.default_rng(1))
        self.sink = LogSink(self.log, self.clock)
        self.service = Service(
            config or ServiceConfig(home, versions=VersionsConfig(refresh_seconds=0.005)),
            View(self.fold_store, self.learn_store, lambda _: build_models(MODELS, 1)),
            self.sink,
            self.clock,
            self.signals,
        )
        self.client = Client(self.service)

    def send(self, *events: JsonEvent) -> httpx.Response:
        """Send events over HTTP."""
        return self.client.post("/v1/events", {"events": list(events)})

    def settle(self) -> None:
        """Fold and learn all that was sent, and wait until the service answers with that version."""
        while self.fold.step().num_messages:
            pass
        while self.learn.step(self.clock()).num_deltas:
            pass
        end = sum(self.fold.offsets.values())  # slates may have come to the log since
        wait_until(lambda: self.learned_offset() >= end, "the service has taken over the newest version")

    def settle_slates(self, num_slates: int) -> None:
        """Wait until that many slates are in the log, and fold them; fails where one is rejected."""
        slates = 0

        def fold() -> bool:
            nonlocal slates
            result = self.fold.step()
            assert result.num_rejected == 0
            slates += result.num_events
            return slates >= num_slates

        wait_until(fold, f"{num_slates} slates are in the log")

    def name(self, number: int) -> str:
        """An item's name by the fold store's number."""
        dictionary = Dictionary(self.fold_store)
        return dictionary.name(number)

    def learned_offset(self) -> int:
        """How far the version that answers has learned."""
        response = self.client.get("/v1/model")
        return sum(response.json()["learned_offsets"].values()) if response.status_code == 200 else -1

    def close(self) -> None:
        """Stop everything."""
        self.client.close()
        self.service.close()
        self.learn_store.close()
        self.fold_store.close()
        self.log.close()


@contextmanager
def open_loop(home: Path, config: ServiceConfig | None = None) -> Iterator[Loop]:
    """A loop that is closed at the end."""
    loop = Loop(home, config)
    try:
        yield loop
    finally:
        loop.close()


def wait_until(is_so: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Wait for a condition; fail the test where it does not come."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain until {what}"
        time.sleep(0.002)


def view(user: str, item: str, at: int = 0, **fields: object) -> JsonEvent:
    """A view `at` milliseconds after NOW less an hour."""
    return {"type": "view", "user_id": user, "item_id": item, "timestamp": NOW - 3_600_000 + at, **fields}


def signal(kind: str, user: str, item: str, at: int, **fields: object) -> JsonEvent:
    """An event of any signal, timed like `view`."""
    return view(user, item, at, **fields) | {"type": kind}


def item(item_id: str, **fields: object) -> JsonEvent:
    """An item for PUT /v1/items."""
    return {"item_id": item_id, "timestamp": NOW - 7_200_000, **fields}


def crowd(items: Sequence[str], num_users: int = 30) -> list[JsonEvent]:
    """Views of many users in turn, so that the first items are the most popular."""
    return [
        view(f"crowd-{user}", name, at=user * 1000 + place)
        for user in range(num_users)
        for place, name in enumerate(items[: max(1, len(items) - user % len(items))])
    ]


def problem(response: httpx.Response) -> Mapping[str, object]:
    """The problem document of an answer; fails the test where it is none."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    document: Mapping[str, object] = response.json()
    assert document["status"] == response.status_code
    assert document["type"] == "about:blank"
    assert document["title"]
    assert document["detail"]
    return document
