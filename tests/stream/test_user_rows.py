# Rows by user in the loop: read through, bounded in memory, committed with the step, forgotten, served.
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.base import Model
from models.conet import CoNet, CoNetConfig
from models.examples import cut_query
from models.registry import build_models
from state.deltas import DeltaLog
from state.dictionary import Dictionary
from state.follower import StoreSource
from state.store import Store
from state.tables import get_user_row
from state.view import View
from stream.fold import FoldConfig
from stream.learn import LearnConfig, LearnStage
from tests.models.examples import as_batches, random_clicks
from tests.stream.helpers import NOW, fold, value, view

CONFIG = LearnConfig(max_entries_per_step=50, batch_size=16)
EVENTS = [view(f"u{n % 9}", f"i{n * 7 % 23}", n, dwell_ms=9000 if n % 5 else 100) for n in range(300)]


def conet(cache_users: int = 20_000) -> CoNet:
    config = CoNetConfig(width=8, num_recent=16, num_uniform=16, cache_users=cache_users)
    return CoNet(np.random.default_rng(3), config)


def stage_of(learned: Store, folded: Store, model: Model) -> LearnStage:
    folds = {"fold-0": StoreSource(folded)}
    return LearnStage(learned, folds, {"conet": model}, np.random.default_rng(0), config=CONFIG)


def user_rows(store: Store) -> dict[bytes, bytes]:
    txn = store.begin_read_whole()
    try:
        return {bytes(user): bytes(row) for user, row in txn.cursor(store.db("user_rows:conet/users"))}
    finally:
        store.end_read(txn)


def learn_all(stage: LearnStage) -> None:
    while stage.step(NOW).num_deltas:
        pass


def lost(*_: object) -> None:
    raise OSError("gone")


def few_at_a_time(folded: Store) -> None:
    fold(folded, [value(event) for event in EVENTS], FoldConfig(max_events=20))


def test_each_user_who_took_something_has_a_row_of_its_own(folded: Store, learned: Store) -> None:
    few_at_a_time(folded)
    learn_all(stage_of(learned, folded, conet()))
    rows = user_rows(learned)
    assert sorted(rows) == [b"u%d" % n for n in range(9)]
    assert len(set(rows.values())) == 9


@pytest.mark.parametrize("restarts_at", [(), (1, 2, 4)])
def test_what_is_learned_depends_neither_on_memory_nor_on_restarts(
    folded: Store, tmp_path: Path, restarts_at: tuple[int, ...]
) -> None:
    few_at_a_time(folded)
    found = []
    for number, (capacity, restarts) in enumerate(((20_000, ()), (2, restarts_at))):
        with Store(tmp_path / f"learn-{number}", "learn", writer=True) as store:
            model = conet(capacity)
            stage = stage_of(store, folded, model)
            for step in range(20):
                stage.step(NOW)
                if step in restarts:
                    model = conet(capacity)  # a fresh process: all of it comes from the store
                    stage = stage_of(store, folded, model)
                    assert model.users.held() == []
            assert capacity > 9 or len(model.users.held()) <= 9
            found.append((user_rows(store), model.items.values[: model.num_items].tobytes(), model.dense()))
    (one, other) = found
    assert other[0] == one[0]
    assert other[1] == one[1]
    assert all(np.array_equal(other[2][key], one[2][key]) for key in one[2])


def test_a_step_that_did_not_commit_changes_no_row_and_is_learned_anew(
    folded: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_at_a_time(folded)
    with Store(tmp_path / "steady", "learn", writer=True) as steady:
        learn_all(stage_of(steady, folded, conet()))
        expected = user_rows(steady)
    with Store(tmp_path / "killed", "learn", writer=True) as killed:
        stage = stage_of(killed, folded, conet())
        stage.step(NOW)
        before = user_rows(killed)
        with monkeypatch.context() as broken:
            broken.setattr(DeltaLog, "append", lost)
            with pytest.raises(OSError, match="gone"):
                stage.step(NOW)
        assert user_rows(killed) == before
        learn_all(stage_of(killed, folded, conet()))
        assert user_rows(killed) == expected


def test_a_deleted_user_has_no_row_even_if_learned_in_the_same_step(folded: Store, learned: Store) -> None:
    goodbye = {"type": "user_delete", "user_id": "u1", "timestamp": NOW + 400}
    fold(folded, [value(*EVENTS[:40]), value(goodbye)])
    model = conet()
    stage = stage_of(learned, folded, model)
    learn_all(stage)
    assert b"u1" not in user_rows(learned)
    assert b"u1" not in model.users.held()
    assert b"u2" in user_rows(learned)


def test_outside_of_a_step_a_learner_s_model_reads_no_store(folded: Store, learned: Store) -> None:
    few_at_a_time(folded)
    learn_all(stage_of(learned, folded, conet()))
    fresh = conet()
    stage_of(learned, folded, fresh)
    assert fresh.users.row(b"u1") is None


def test_a_server_scores_with_the_rows_of_its_version_and_holds_none(folded: Store, learned: Store) -> None:
    few_at_a_time(folded)
    model = conet()
    learn_all(stage_of(learned, folded, model))
    served = View(folded, learned, lambda _: {"conet": conet()})
    served.refresh()
    query = cut_query(as_batches(random_clicks(3), [3])[0].query, slice(0, 3))
    query = replace(query, users=np.array([b"u1", b"u8", b"unknown"], object))
    with served.read() as home, learned.read() as txn:
        scorer = home.models["conet"]
        assert isinstance(scorer, CoNet)
        scores = scorer.score(query)
        assert scorer.users.held() == []
        stored = get_user_row(txn, learned, "conet", "users", b"u1")
        assert stored is not None
        numbers = [home.dictionary.find(f"i{n}") for n in range(23)] if home.dictionary else []
        own = [stage_number(learned, f"i{n}") for n in range(23)]
    np.testing.assert_allclose(scores[:, numbers], model.score(query)[:, own], atol=0.01)
    assert np.abs(scores[0] - scores[1]).max() > 0.01
    served.close()


def stage_number(store: Store, item: str) -> int:
    return Dictionary(store).find(item)


def test_the_registry_s_conet_has_rows_by_user() -> None:
    model = build_models(["conet"])["conet"]
    assert isinstance(model, CoNet)
    assert set(model.user_tables) == {"users"}
