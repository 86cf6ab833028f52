# Idle users expire: who, when, and that nothing else changes.
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from state.dump import dump
from stream.expiry import Expiry
from stream.feed import append_to
from tests.serving.helpers import NOW, Loop, open_loop, signal, view

DAY = 86_400_000


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    """A user of 200 days ago, one of 100 days ago, and one who came lately."""
    with open_loop(tmp_path) as loop:
        loop.send(*(view("old", f"i{number}", at=number - 200 * DAY) for number in range(3)))
        loop.send(signal("dislike", "old", "i9", at=5 - 200 * DAY), view("middle", "i1", at=-100 * DAY))
        loop.send(view("new", "i1"))
        loop.settle()
        yield loop


def look(loop: Loop, days: int = 180) -> int:
    """Look once through all sets."""
    expiry = Expiry(loop.fold_store, append_to(loop.log), days)
    found = sum(expiry.look(loop.clock()) for _ in range(5))
    loop.settle()
    return found


def is_known(loop: Loop, user: str) -> bool:
    return loop.client.get(f"/v1/users/{user}").status_code == 200


def test_only_users_with_nothing_newer_expire(loop: Loop) -> None:
    assert look(loop) > 0
    assert not is_known(loop, "old")
    assert is_known(loop, "middle")
    assert is_known(loop, "new")
    assert look(loop) == 0
    assert look(loop, 90) > 0
    assert not is_known(loop, "middle")


def test_an_event_of_a_clock_that_jumped_ahead_makes_nobody_idle_who_was_not(loop: Loop) -> None:
    loop.clock.now += 400 * DAY
    loop.send(view("ahead", "i1", at=400 * DAY))
    loop.settle()
    Expiry(loop.fold_store, append_to(loop.log), 180).look(NOW)  # what the retention clock believes
    loop.settle()
    assert [is_known(loop, user) for user in ("old", "middle", "new", "ahead")] == [False, True, True, True]


def test_no_days_mean_that_nobody_expires(loop: Loop) -> None:
    assert look(loop, 0) == 0
    assert is_known(loop, "old")


def test_a_list_that_was_shown_keeps_a_user(loop: Loop) -> None:
    loop.client.recommend("old")
    loop.settle_slates(1)
    assert look(loop) == 0


def test_an_event_that_comes_before_the_expiry_is_folded_keeps_the_user(loop: Loop) -> None:
    loop.send(view("old", "i4", at=1))  # in the log before the look, folded after it
    assert Expiry(loop.fold_store, append_to(loop.log), 180).look(loop.clock()) == 1
    loop.settle()
    assert len(loop.client.get("/v1/users/old").json()["sequence"]) == 5


def test_an_expired_user_leaves_no_tombstone_and_may_come_back(loop: Loop) -> None:
    look(loop)
    for store in (loop.fold_store, loop.learn_store):
        with store.read() as txn:
            assert list(txn.cursor(store.db("tombstones"))) == []
            assert list(txn.cursor(store.db("sequence")).iternext_nodup(values=False)) == [b"middle", b"new"]
    loop.send(view("old", "i5", at=2))
    loop.settle()
    assert [entry["item_id"] for entry in loop.client.get("/v1/users/old").json()["sequence"]] == ["i5"]


def test_the_pace_of_looking_changes_no_record(loop: Loop, tmp_path: Path) -> None:
    look(loop)
    with open_loop(tmp_path / "other") as other:
        for message in loop.log.read(0, 1000):
            other.log.append([message.value], message.received_at)
            other.fold.step()
        assert dump(other.fold_store) == dump(loop.fold_store)


def test_users_are_looked_at_a_few_at_a_time(loop: Loop) -> None:
    expiry = Expiry(loop.fold_store, append_to(loop.log), 50)
    found = [expiry.look(loop.clock(), max_users=1) for _ in range(3)]
    assert found == [1, 0, 1]  # middle, new, old: in the order of their ids


def test_nobody_else_may_say_that_a_user_expires(loop: Loop) -> None:
    reply = loop.client.post("/v1/events", {"type": "user_expiry", "user_id": "new", "timestamp": NOW}).json()
    assert reply["results"][0]["status"] == "rejected"
    assert "servers" in reply["results"][0]["reason"]
