# The request path: what a slate may hold, in which order, and what it says about itself.
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.rank import sunk
from serving.schemas import MAX_ITEMS
from serving.service import ServiceConfig
from serving.steps.selectors import SelectConfig, best_first
from serving.versions import VersionsConfig
from state.records import read_record
from state.slate import unpack_slate
from tests.serving.helpers import NOW, Loop, crowd, item, open_loop, signal, view, wait_until

ITEMS = [f"i{number}" for number in range(30)]  # i0 is the most popular
PLAIN = SelectConfig(epsilon=0.0, diversity=0.0)


def configured(home: Path, select: SelectConfig = PLAIN, is_open: bool = True) -> ServiceConfig:
    return ServiceConfig(home, is_open=is_open, select=select, versions=VersionsConfig(refresh_seconds=0.002))


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    with open_loop(tmp_path, configured(tmp_path)) as loop:
        loop.send(*crowd(ITEMS))
        loop.settle()
        yield loop


def test_a_slate_has_n_distinct_items_best_first(loop: Loop) -> None:
    reply = loop.client.recommend("new", n=12)
    items = reply["items"]
    assert isinstance(items, list)
    assert len({entry["item_id"] for entry in items}) == 12
    scores = [entry["score"] for entry in items]
    assert scores == sorted(scores, reverse=True)


def test_popularity_by_name_gives_the_most_viewed_items_in_order(loop: Loop) -> None:
    assert loop.client.items("new", n=3, model="popularity") == ["i0", "i1", "i2"]


def test_a_slate_tells_version_offsets_and_age(loop: Loop) -> None:
    model = loop.client.get("/v1/model").json()
    reply = loop.client.recommend("new", n=3)
    assert reply["model_version"] == model["model_version"] >= 1
    assert reply["session_offset"] == model["folded_offsets"]["events-0"] == model["learned_offsets"]["events-0"]
    assert reply["model_age_ms"] == NOW - model["event_time"]
    assert model["events_total"] == len(crowd(ITEMS))


def test_the_same_version_and_offset_give_the_same_list_whenever_asked(tmp_path: Path) -> None:
    config = configured(tmp_path, SelectConfig(epsilon=0.5, diversity=0.3))
    with open_loop(tmp_path, config) as loop:
        loop.send(*crowd(ITEMS), view("u", "i3"))
        loop.settle()
        first = loop.client.items("u", n=10)
        loop.clock.now += 86_400_000
        assert loop.client.items("u", n=10) == first


@pytest.mark.parametrize("kind", ["skip", "dislike"])
def test_what_a_user_just_refused_is_gone_from_the_next_list(loop: Loop, kind: str) -> None:
    first = loop.client.items("u", n=1)[0]
    before = loop.client.recommend("u")["session_offset"]
    loop.send(signal(kind, "u", first, at=50_000))
    loop.settle()
    reply = loop.client.recommend("u", n=30)
    items = reply["items"]
    assert isinstance(items, list)
    assert first not in [entry["item_id"] for entry in items]
    assert len(items) == 29  # nothing else is held back
    assert int(str(reply["session_offset"])) > int(str(before))


def test_a_view_too_short_counts_as_a_skip(loop: Loop) -> None:
    loop.send(view("u", "i0", at=50_000, dwell_ms=1999))
    loop.settle()
    assert "i0" not in loop.client.items("u", n=30)


def test_a_record_counts_before_anything_is_learned(loop: Loop) -> None:
    version = loop.client.recommend("u")["model_version"]
    loop.send(signal("skip", "u", "i0", at=50_000))
    loop.fold.step()
    reply = loop.client.recommend("u", n=30)
    assert reply["model_version"] == version
    assert "i0" not in [entry["item_id"] for entry in reply["items"]]  # type: ignore[attr-defined]


def test_a_dislike_outlasts_the_session_and_is_taken_back_by_undo(loop: Loop) -> None:
    loop.send(signal("dislike", "u", "i0", at=10_000))
    loop.send(view("somebody", "i1", at=3_500_000))  # the session is over
    loop.settle()
    assert "i0" not in loop.client.items("u", n=30)
    loop.send(signal("undo", "u", "i0", at=3_500_001))
    loop.settle()
    assert "i0" in loop.client.items("u", n=30)


def test_a_skip_is_forgiven_when_the_session_is_over(loop: Loop) -> None:
    loop.send(signal("skip", "u", "i0", at=10_000))
    loop.settle()
    assert "i0" not in loop.client.items("u", n=30)
    loop.send(view("somebody", "i1", at=3_500_000))
    loop.settle()
    assert "i0" in loop.client.items("u", n=30)  # seen, and there are no 30 others


def test_the_session_of_a_request_counts_for_that_answer_alone(loop: Loop) -> None:
    session = [signal("skip", "u", "i0", at=50_000), view("u", "nobody-knows-it", at=50_001)]
    assert "i0" not in loop.client.items("u", n=30, session=session)
    assert "i0" in loop.client.items("u", n=30)


def test_a_later_signal_of_the_same_slate_refines_the_earlier(loop: Loop) -> None:
    loop.send(signal("skip", "u", "i0", at=50_000, request_id="r-1"))
    loop.send(view("u", "i0", at=50_001, request_id="r-1"))
    loop.settle()
    assert "i0" in loop.client.items("u", n=30)  # seen, but no longer refused


def test_unseen_items_come_first_and_seen_ones_return_oldest_first(loop: Loop) -> None:
    loop.send(*(view("u", name, at=60_000 + place) for place, name in enumerate(["i5", "i0", "i7"])))
    loop.settle()
    assert not {"i5", "i0", "i7"} & set(loop.client.items("u", n=27))
    assert set(loop.client.items("u", n=28)) & {"i5", "i0", "i7"} == {"i5"}
    assert set(loop.client.items("u", n=29)) & {"i5", "i0", "i7"} == {"i5", "i0"}
    assert len(loop.client.items("u", n=40)) == 30


def test_seen_items_return_from_among_the_candidates_alone(loop: Loop) -> None:
    loop.send(*(view("u", name, at=60_000 + place) for place, name in enumerate(["i5", "i0", "i7"])))
    loop.settle()
    assert loop.client.items("u", n=2, candidates=["i7", "i9"]) == ["i9", "i7"]  # behind the unseen one


def test_exclude_is_never_relaxed(loop: Loop) -> None:
    items = loop.client.items("u", n=40, exclude=["i0", "i1", "nobody-knows-it"])
    assert len(items) == 28
    assert not {"i0", "i1"} & set(items)


def test_candidates_are_ranked_and_nothing_else_is_shown(loop: Loop) -> None:
    assert loop.client.items("u", model="popularity", candidates=["i9", "i2", "unknown", "i4"]) == ["i2", "i4", "i9"]
    assert loop.client.items("u", candidates=[]) == []


def test_a_filter_keeps_items_of_a_category_with_all_features(loop: Loop) -> None:
    documents = [
        item("i0", categories=["news"], features={"lang": "en"}),
        item("i1", categories=["news", "sport"], features={"lang": "de"}),
        item("i2", categories=["music"], features={"lang": "en", "length": 3}),
    ]
    assert loop.client.request("PUT", "/v1/items", {"items": documents}).json()["accepted"] == 3
    loop.settle()
    assert set(loop.client.items("u", filter={"categories": ["news"]})) == {"i0", "i1"}
    assert set(loop.client.items("u", filter={"categories": ["music", "sport"]})) == {"i1", "i2"}
    assert set(loop.client.items("u", filter={"features": {"lang": "en"}})) == {"i0", "i2"}
    assert loop.client.items("u", filter={"categories": ["news"], "features": {"lang": "en"}}) == ["i0"]
    assert loop.client.items("u", filter={"categories": ["cooking"]}) == []


def test_unavailable_and_deleted_items_are_never_shown(loop: Loop) -> None:
    loop.client.request("PUT", "/v1/items", {"items": [item("i0", available=False)]})
    assert loop.client.request("DELETE", "/v1/items/i1").status_code == 202
    loop.settle()
    assert not {"i0", "i1"} & set(loop.client.items("u", n=40))


def test_a_new_item_can_be_shown_before_anyone_viewed_it(loop: Loop) -> None:
    loop.client.request("PUT", "/v1/items", {"items": [item("fresh", published_at=NOW)]})
    loop.settle()
    assert "fresh" in loop.client.items("u", n=40)


def test_a_new_item_is_tried_even_where_enough_others_are_known(tmp_path: Path) -> None:
    with open_loop(tmp_path, configured(tmp_path, SelectConfig(epsilon=1.0))) as loop:
        loop.send(*(view("somebody", f"old-{number}", at=number) for number in range(300)))
        loop.client.request("PUT", "/v1/items", {"items": [item("fresh", published_at=NOW)]})
        loop.settle()
        assert any("fresh" in loop.client.items(f"u{number}", n=60) for number in range(20))


def test_with_a_closed_catalogue_only_upserted_items_are_recommended(tmp_path: Path) -> None:
    with open_loop(tmp_path, configured(tmp_path, is_open=False)) as loop:
        loop.send(*crowd(ITEMS))
        loop.client.request("PUT", "/v1/items", {"items": [item("i4"), item("new")]})
        loop.settle()
        assert set(loop.client.items("u")) == {"i4", "new"}


def test_before_anything_is_learned_the_newest_items_answer(tmp_path: Path) -> None:
    with open_loop(tmp_path, configured(tmp_path)) as loop:
        loop.send(*(view("somebody", name, at=place) for place, name in enumerate("abc")))
        loop.fold.step()
        wait_until(lambda: len(loop.client.items("u")) == 3, "the fold's items are known")
        assert loop.client.items("u") == ["c", "b", "a"]
        assert loop.client.recommend("u")["model_version"] == 0


def test_explain_tells_what_a_score_is_the_sum_of(loop: Loop) -> None:
    for model, parts in (("", {"transformer", "covisitation", "skipped"}), ("popularity", {"popularity"})):
        items = loop.client.recommend("u", n=2, model=model, explain=True)["items"]
        assert isinstance(items, list)
        assert parts <= set(items[0]["reason"])
        assert sum(items[0]["reason"].values()) == pytest.approx(items[0]["score"], rel=1e-4)
    assert "reason" not in loop.client.recommend("u", n=2)["items"][0]  # type: ignore[index]


def test_what_was_served_reaches_the_user_s_record_with_sources_and_propensities(loop: Loop) -> None:
    reply = loop.client.recommend("u", n=5)
    loop.settle_slates(1)
    with loop.fold_store.read() as txn:
        slates = read_record(txn, loop.fold_store, b"u").slates.rows
    slate = unpack_slate(slates[-1])
    items = reply["items"]
    assert isinstance(items, list)
    assert [loop.name(number) for number in slate.items] == [entry["item_id"] for entry in items]
    assert slate.version == reply["model_version"]
    assert slate.propensities == pytest.approx([entry["propensity"] for entry in items], rel=1e-3)


def test_the_largest_slate_there_may_be_is_logged_too(tmp_path: Path) -> None:
    with open_loop(tmp_path, configured(tmp_path)) as loop:
        loop.send(*(view("crowd", "x" * 250 + str(number), at=number) for number in range(MAX_ITEMS)))
        loop.settle()
        assert len(loop.client.items("u", n=MAX_ITEMS)) == MAX_ITEMS
        loop.settle_slates(1)


def test_propensities_of_a_place_are_a_distribution_over_the_pool(tmp_path: Path) -> None:
    epsilon = 0.3
    config = configured(tmp_path, SelectConfig(epsilon=epsilon, diversity=0.0))
    with open_loop(tmp_path, config) as loop:
        loop.send(*crowd(ITEMS))
        loop.settle()
        shown: dict[str, float] = {}
        first = [loop.client.recommend(f"u{number}", n=1)["items"][0] for number in range(400)]  # type: ignore[index]
        for entry in first:
            shown.setdefault(entry["item_id"], entry["propensity"])
            assert shown[entry["item_id"]] == entry["propensity"]
        tries = [entry for entry in first if entry["source"] == "exploration"]
        assert 0.2 < len(tries) / len(first) < 0.4
        assert len({entry["item_id"] for entry in tries}) > 20
        assert sum(shown.values()) == pytest.approx(1 - epsilon * (len(ITEMS) - len(shown)) / len(ITEMS))


def test_a_model_by_name_is_neither_mixed_nor_explored(tmp_path: Path) -> None:
    config = configured(tmp_path, SelectConfig(epsilon=0.9, diversity=0.9))
    with open_loop(tmp_path, config) as loop:
        loop.send(*crowd(ITEMS))
        loop.settle()
        reply = loop.client.recommend("u", n=5, model="popularity")
        items = reply["items"]
        assert isinstance(items, list)
        assert [entry["item_id"] for entry in items] == ITEMS[:5]
        assert {entry["propensity"] for entry in items} == {1.0}
        assert {entry["source"] for entry in items} == {"popularity"}


def test_similar_items_are_those_of_common_sessions(loop: Loop) -> None:
    events = [view(f"pair{user}", name, at=70_000 + user) for user in range(40) for name in ("left", "right")]
    loop.send(*events)
    loop.settle()
    reply = loop.client.post("/v1/similar-items", {"item_id": "left", "n": 5}).json()
    assert reply["items"][0]["item_id"] == "right"
    assert len(reply["items"]) == 5
    assert "left" not in [entry["item_id"] for entry in reply["items"]]


@given(st.lists(st.floats(width=32) | st.sampled_from([float("nan"), float("inf"), -float("inf")]), min_size=1))
def test_no_score_that_is_not_finite_takes_a_place_from_a_finite_one(values: list[float]) -> None:
    scores = np.array(values, np.float32)
    order = best_first(np.zeros(len(scores), np.bool_), sunk(scores), np.arange(len(scores)))
    finite = np.isfinite(scores[order])
    num_finite = int(finite.sum())
    assert finite[:num_finite].all()
    assert (np.diff(scores[order[:num_finite]]) <= 0).all()
