# The list that an item was taken from: slates joined with takings, in memory and through the stages.
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.base import PAD, Batch
from models.registry import build_models
from state.entry import Entry, pack
from state.follower import StoreSource
from state.slate import Impression, Slate, pack_impression, pack_slate
from state.store import Store
from stream.learn import LearnStage
from stream.shown import JOIN_MS, Shown
from tests.stream.helpers import NOW, JsonEvent, fold, value, view

USER = b"u"
LISTED = (10, 11, 12, 13)


def slate_row(at: int = NOW, request: int = 1, items: tuple[int, ...] = LISTED) -> bytes:
    return pack_slate(Slate(at, request, request, 1, items, (0,) * len(items), (1.0,) * len(items)))


def shown_to(*rows: bytes) -> Shown:
    shown = Shown(max_users=2)
    for row in rows:
        shown.add(USER, row, np.array(LISTED))
    return shown


def taken(item: int, at: int = NOW + 1000, request: int = 1) -> bytes:
    return pack(Entry(at, 7, item, 1, request=request))


def test_an_item_was_chosen_from_its_list_less_what_was_taken_of_it_before() -> None:
    shown = shown_to(slate_row())
    assert shown.beside(USER, taken(12)) == LISTED
    assert shown.beside(USER, taken(13)) == (10, 11, PAD, 13)
    assert shown.beside(USER, taken(12)) == (10, 11, 12, PAD)  # a like after the view


@pytest.mark.parametrize(
    ("at", "request_id", "found"),
    [
        (NOW + JOIN_MS, 1, LISTED),
        (NOW + JOIN_MS + 1, 1, ()),
        (NOW - 1, 1, ()),  # before it was served
        (NOW + 1, 2, ()),  # of another list
        (NOW + 1, 0, LISTED),  # an app that tells no request id
    ],
)
def test_a_taking_belongs_to_its_slate_for_half_an_hour(at: int, request_id: int, found: tuple[int, ...]) -> None:
    assert shown_to(slate_row()).beside(USER, taken(12, at, request_id)) == found


@pytest.mark.parametrize(
    ("impression", "found"),
    [
        (Impression(NOW, 1, 1), LISTED),
        (Impression(NOW, 1, 1, positions=(1, 2, 9)), (PAD, 11, 12, PAD)),
        (Impression(NOW, 1, 1, positions=(0,)), (10, PAD, 12, PAD)),  # it was taken, so it was seen
        (Impression(NOW, 1, 1, items=(10, 13)), (10, PAD, 12, 13)),
        (Impression(NOW, 1, 2), LISTED),
    ],
)
def test_an_impression_tells_what_was_seen(impression: Impression, found: tuple[int, ...]) -> None:
    shown = shown_to(slate_row())
    shown.add_impression(USER, pack_impression(impression), np.array(impression.items, np.int64))
    assert shown.beside(USER, taken(12)) == found


def test_unknown_items_are_left_out_and_users_forgotten() -> None:
    shown = Shown(max_users=2)
    shown.add(USER, slate_row(), np.array([10, PAD, 12, 13]))
    assert shown.beside(USER, taken(12)) == (10, PAD, 12, 13)
    shown.forget(USER)
    assert shown.beside(USER, taken(12)) == ()
    for user in (b"a", b"b", b"c"):
        shown.add(user, slate_row(), np.array(LISTED))
    assert [shown.beside(user, taken(11)) for user in (b"a", b"b", b"c")] == [(), LISTED, LISTED]


def test_the_newest_slate_that_holds_the_item_counts() -> None:
    shown = shown_to(slate_row(request=1))
    shown.add(USER, slate_row(NOW + 10, 2, LISTED[::-1]), np.array(LISTED[::-1]))
    assert shown.beside(USER, taken(12, request=0)) == LISTED[::-1]
    assert shown.beside(USER, taken(12, request=1)) == LISTED


def test_the_learner_s_examples_say_what_list_they_are_from(tmp_path: Path) -> None:
    slate: JsonEvent = {
        "type": "slate",
        "event_id": "r",
        "request_id": "r",
        "user_id": "u",
        "timestamp": NOW,
        "version": 1,
        "items": ["a", "unheard of", "b", "c"],
        "sources": ["x"] * 4,
        "propensities": [1.0] * 4,
    }
    before = value(*(view("someone", item, at) for at, item in enumerate("cba")))
    after = value(slate, {**view("u", "c", NOW + 1, event_id="e"), "timestamp": NOW + 1, "request_id": "r"})
    seen: list[Batch] = []
    with (
        Store(tmp_path / "fold", "fold", writer=True) as source,
        Store(tmp_path / "learn", "learn", writer=True) as store,
    ):
        stage = LearnStage(store, {"fold": StoreSource(source)}, build_models(["popularity"]), np.random.default_rng(0))
        for values in ([before], [before, after]):
            fold(source, values)
            stage.step(NOW, observer=lambda batch, _: seen.append(batch))
    assert seen[0].shown is None
    assert seen[1].shown is not None
    assert seen[1].shown.tolist() == [[2, PAD, 1, 0]]  # by the learner's numbers
