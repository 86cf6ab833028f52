# What docs/privacy.md says of forgetting a user, line by line, over the API and in the bytes of the stores.
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from state.store import Store
from tests.serving.helpers import Loop, crowd, open_loop, signal, view, wait_until

USER = "forget-me-please"
# Where the page says that an id may stay: tombstones, and logs until retention trims them.
MAY_STAY = {"tombstones", "deltas", "deltas:fold", "deltas:learn"}


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    with open_loop(tmp_path) as loop:
        loop.send(*crowd([f"i{number}" for number in range(12)]))
        loop.send(*(view(USER, f"i{number}", at=90_000 + number) for number in range(6)))
        loop.send(
            signal("dislike", USER, "i9", at=91_000),
            {"type": "impression", "user_id": USER, "items": ["i1"], **_at(91_001)},
        )
        loop.settle()
        loop.client.recommend(USER, n=5)
        loop.settle_slates(1)
        loop.settle()
        yield loop


def _at(milliseconds: int) -> dict[str, object]:
    return {"timestamp": view("u", "i", at=milliseconds)["timestamp"]}


def places_of(store: Store, folder: Path) -> set[str]:
    """The databases of a store whose keys or values hold the user's id."""
    store.copy(folder)
    found: set[str] = set()
    with lmdb.open(str(folder), max_dbs=256, readonly=True, lock=False) as env, env.begin() as txn:
        for name in list(txn.cursor().iternext(values=False)):
            with txn.cursor(env.open_db(name, txn=txn, create=False)) as cursor:
                if any(USER.encode() in key + value for key, value in cursor):
                    found.add(name.decode())
    return found


def test_record_and_rows_leave_every_store_and_nothing_but_what_the_page_names_stays(
    loop: Loop, tmp_path: Path
) -> None:
    assert places_of(loop.fold_store, tmp_path / "fold-before") - MAY_STAY  # the search finds what is there
    assert places_of(loop.learn_store, tmp_path / "learn-before") - MAY_STAY
    reply = loop.client.request("DELETE", f"/v1/users/{USER}")
    assert reply.status_code == 202
    loop.settle()
    model = loop.client.get("/v1/model").json()
    assert model["folded_offsets"]["events-0"] == model["learned_offsets"]["events-0"] >= reply.json()["offset"]
    assert loop.client.get(f"/v1/users/{USER}").status_code == 404
    assert places_of(loop.fold_store, tmp_path / "fold-after") <= MAY_STAY
    assert places_of(loop.learn_store, tmp_path / "learn-after") <= MAY_STAY


def test_a_forgotten_user_is_served_like_one_who_never_came(loop: Loop) -> None:
    assert "i9" not in loop.client.items(USER, n=12)
    loop.client.request("DELETE", f"/v1/users/{USER}")
    loop.settle()
    assert set(loop.client.items(USER, n=12)) == set(loop.client.items("never-came", n=12))


def test_events_received_before_the_wish_are_dropped_and_later_ones_count(loop: Loop) -> None:
    loop.send(view(USER, "on-its-way", at=95_000))  # in the log, not folded yet
    loop.client.request("DELETE", f"/v1/users/{USER}")
    loop.settle()
    assert loop.client.get(f"/v1/users/{USER}").status_code == 404
    loop.clock.now += 1
    loop.send(view(USER, "i4", at=96_000))
    loop.settle()
    wait_until(lambda: loop.client.get(f"/v1/users/{USER}").status_code == 200, "the user is back")
    user = loop.client.get(f"/v1/users/{USER}").json()
    assert [entry["item_id"] for entry in user["sequence"]] == ["i4"]
    assert user["disliked"] == []


def test_others_keep_everything(loop: Loop) -> None:
    before = loop.client.get("/v1/users/crowd-3").json()["sequence"]
    popular = loop.client.items("never-came", n=3, model="popularity")
    loop.client.request("DELETE", f"/v1/users/{USER}")
    loop.settle()
    assert loop.client.get("/v1/users/crowd-3").json()["sequence"] == before
    assert loop.client.items("never-came", n=3, model="popularity") == popular
