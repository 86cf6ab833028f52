# The learn stage: what becomes an example, and that cuts, crashes and order of commits change no counter.
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.base import PAD, Batch, Model, Query
from models.popularity import Popularity, PopularityConfig
from models.registry import build_models
from models.tables import CellTable, RowTable
from state.deltas import DeltaGap, DeltaLog, decode
from state.dictionary import Dictionary
from state.dump import dump
from state.follower import StoreSource
from state.meta import get_version
from state.offsets import get_offsets, get_totals
from state.store import Store, StoreConfigurationChanged
from stream.fold import FoldConfig, FoldStage
from stream.learn import LearnConfig, LearnStage
from stream.prequential import PrequentialConfig
from stream.source import IterableSource
from tests.stream.helpers import NOW, fold, random_events, stamped, value, view

COUNTERS = ("popularity", "recent", "covisitation")


class Watcher:
    """A gradient model for tests: a sum a seen item, and every batch it was given."""

    replays = True

    def __init__(self, name: str = "watcher", replays: bool = True) -> None:
        self.name, self.replays = name, replays
        self.batches: list[Batch] = []
        self.rows = RowTable(width=1)
        self.num_learned = 0

    @property
    def num_items(self) -> int:
        return self.rows.size

    @property
    def tables(self) -> Mapping[str, RowTable | CellTable]:
        return {"rows": self.rows}

    def learn(self, batch: Batch) -> float:
        self.batches.append(batch)
        self.rows.grow(int(batch.items.max()) + 1)
        np.add.at(self.rows.values[:, 0], batch.items, 1.0)
        self.rows.touch(batch.items)
        self.num_learned += len(batch.items)
        return float(len(batch.items))

    def score(self, query: Query, items: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        scores = self.rows.values[: self.rows.size, 0].astype(np.float32)
        return np.tile(scores if items is None else scores[items], (len(query.now), 1))

    def dense(self) -> dict[str, NDArray[np.float32]]:
        return {"learned": np.array([self.num_learned], np.float32)}

    def load_dense(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        self.num_learned = int(weights["learned"][0])

    def training_state(self) -> dict[str, NDArray[np.generic]]:
        return {}

    def load_training_state(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        pass


def stage_of(
    learned: Store, folded: Store, *models: Model, config: LearnConfig | None = None, seed: int = 0
) -> LearnStage:
    named = {model.name: model for model in models} or build_models(COUNTERS)
    folds = {"fold-0": StoreSource(folded)}
    return LearnStage(learned, folds, named, np.random.default_rng(seed), config=config)


def names_of(learned: Store, numbers: NDArray[np.int64]) -> list[str]:
    dictionary = Dictionary(learned)
    return [dictionary.name(int(number)) for number in numbers if number != PAD]


def test_every_new_entry_is_one_example_with_the_history_just_before_it(folded: Store, learned: Store) -> None:
    fold(folded, [value(view("u", "a", 1), view("v", "a", 2), view("u", "b", 3)), value(view("u", "c", 4))])
    watcher = Watcher()
    stage_of(learned, folded, watcher, config=LearnConfig(replay_ratio=0)).step(NOW)
    (batch,) = watcher.batches
    assert names_of(learned, batch.items) == ["a", "a", "b", "c"]
    assert [names_of(learned, history) for history in batch.query.items] == [[], [], ["a"], ["a", "b"]]
    assert batch.query.now.tolist() == [NOW + 1, NOW + 2, NOW + 3, NOW + 4]
    assert batch.query.items.shape == (4, 2)
    assert batch.query.items[3].tolist() == batch.items[[0, 2]].tolist()
    assert batch.query.at[3, -2:].tolist() == [NOW + 1, NOW + 3]


def test_a_history_holds_what_happened_before_not_what_arrived_before(folded: Store, learned: Store) -> None:
    fold(folded, [value(view("u", "a", 1), view("u", "c", 9), view("u", "b", 5))])
    watcher = Watcher()
    stage_of(learned, folded, watcher, config=LearnConfig(replay_ratio=0)).step(NOW)
    histories = [names_of(learned, history) for history in watcher.batches[0].query.items]
    assert dict(zip(names_of(learned, watcher.batches[0].items), histories, strict=True)) == {
        "a": [],
        "c": ["a"],
        "b": ["a"],
    }


def test_a_history_is_as_wide_as_the_window_and_keeps_the_newest(folded: Store, learned: Store) -> None:
    fold(folded, [value(*[view("u", f"i{at}", at) for at in range(60)])])
    watcher = Watcher()
    stage_of(learned, folded, watcher, config=LearnConfig(replay_ratio=0)).step(NOW)
    assert names_of(learned, watcher.batches[0].query.items[59]) == [f"i{at}" for at in range(9, 59)]


def test_labels_and_weights_are_those_of_the_signals_and_undo_teaches_nothing(folded: Store, learned: Store) -> None:
    signals = ("view", "skip", "like", "undo", "purchase")
    fold(folded, [value(*[view("u", "a", at, type=name) for at, name in enumerate(signals)])])
    watcher = Watcher()
    stage_of(learned, folded, watcher, config=LearnConfig(replay_ratio=0)).step(NOW)
    (batch,) = watcher.batches
    assert batch.labels.tolist() == [1, 0, 1, 1]
    assert batch.weights.tolist() == [1, 1, 2, 5]
    assert len(names_of(learned, batch.query.items[3])) == 4  # though undo is part of the history
    with learned.read() as txn:
        totals = get_totals(txn, learned)
    assert totals == {(name, "learned"): 1 for name in ("view", "skip", "like", "purchase")}


def test_a_session_is_an_id_or_a_run_without_a_long_gap(folded: Store, learned: Store) -> None:
    gap = 1_800_000
    fold(
        folded,
        [
            value(view("u", "a", -gap * 3, session_id="s"), view("u", "b", 0, session_id="s")),
            value(view("u", "c", 1, session_id="t")),
            value(*[view("v", name, at) for name, at in (("a", -2 * gap - 1), ("b", -gap), ("c", 0))]),
        ],
    )
    watcher = Watcher()
    stage_of(learned, folded, watcher, config=LearnConfig(replay_ratio=0)).step(NOW)
    query = watcher.batches[0].query
    in_session = [
        names_of(learned, np.where(mask, row, PAD)) for mask, row in zip(query.in_session, query.items, strict=True)
    ]
    assert in_session == [[], ["a"], [], [], [], ["b"]]


def test_repeated_late_and_bad_events_are_not_learned(folded: Store, learned: Store) -> None:
    event = view("u", "a", 500, event_id="e")
    newer = [view("u", f"i{at}", 1000 + at) for at in range(200)]
    fold(folded, [value(event), value(event), b"no", value(*newer), value(view("u", "late", 0)), value(event)])
    watcher = Watcher()
    result = stage_of(learned, folded, watcher, config=LearnConfig(replay_ratio=0)).step(NOW)
    assert result.num_examples == watcher.num_learned == 201
    assert "late" not in names_of(learned, np.concatenate([batch.items for batch in watcher.batches]))


def test_a_step_reads_each_delta_once_and_then_has_nothing_to_do(folded: Store, learned: Store) -> None:
    stage = stage_of(learned, folded)
    assert stage.step(NOW).version == 0
    fold(folded, [value(view("u", "a"))])
    assert stage.step(NOW).num_examples == 1
    assert stage.step(NOW) == stage.step(NOW)
    assert stage.version == 1
    fold(folded, [value(view("u", "a")), value(view("u", "b", 1))])
    assert stage.step(NOW).num_examples == 1
    with learned.read() as txn:
        assert get_offsets(txn, learned) == {"values-0": 2}
        assert get_version(txn, learned, "learn") == 2


def test_a_step_ends_at_the_delta_that_reaches_its_size(folded: Store, learned: Store) -> None:
    fold(folded, [value(view("u", f"i{at}", at)) for at in range(10)], FoldConfig(max_events=1))
    stage = stage_of(learned, folded, config=LearnConfig(max_entries_per_step=4))
    assert [stage.step(NOW).num_examples for _ in range(4)] == [4, 4, 2, 0]


def test_the_delta_tells_what_was_learned_and_what_rows_changed(folded: Store, learned: Store) -> None:
    fold(folded, [value(view("u", "a"), view("u", "b", 7)), value({**view("v", "a"), "type": "user_delete"})])
    stage_of(learned, folded, Watcher()).step(NOW)
    with learned.read() as txn:
        ((version, data),) = DeltaLog(learned, "learn").read(txn, 0)
    delta = decode(data, Dictionary(learned).find)
    assert (version, delta.offsets, delta.event_time) == (1, {"values-0": 2}, NOW + 7)
    assert delta.fold_versions == {"fold-0": 1}
    assert delta.deleted_users == [(b"v", NOW + 1000)]
    assert delta.models["watcher"].rows["rows"].numbers.tolist() == [0, 1]
    assert delta.models["watcher"].dense["learned"].tolist() == [2]


def test_a_deleted_user_is_forgotten_and_not_replayed(folded: Store, learned: Store) -> None:
    fold(folded, [value(view("u", "a"), view("u", "b", 1))])
    stage = stage_of(learned, folded, Watcher(), config=LearnConfig(replay_ratio=4))
    stage.step(NOW)
    fold(folded, [b"[]", value({"type": "user_delete", "user_id": "u", "timestamp": NOW})])
    stage.step(NOW)
    assert b"u" not in b"".join(dump(learned)[part] for part in ("sequence", "seen"))
    fold(folded, [b"[]", b"[]", value(view("u", "c", 9), view("v", "c", 10))])
    watcher = Watcher()
    learned_again = stage_of(learned, folded, watcher, config=LearnConfig(replay_ratio=4))
    learned_again.step(NOW)
    assert len(watcher.batches[0].items) == 2  # nobody has an entry with one before it


def test_gradient_models_get_replayed_examples_and_counters_do_not(folded: Store, learned: Store) -> None:
    events = [view(f"u{at % 7}", f"i{at}", at) for at in range(70)]
    fold(folded, [value(*events)])
    counter, gradient = Watcher("counter", replays=False), Watcher()
    stage = stage_of(learned, folded, counter, gradient, config=LearnConfig(replay_ratio=0.5))
    stage.step(NOW)
    fold(folded, [value(*events), value(*[view("new", f"i{at}", 100 + at) for at in range(40)])])
    stage.step(NOW)
    assert len(counter.batches[1].items) == 40
    replayed = gradient.batches[1]
    assert len(replayed.items) == 60
    assert replayed.items[:40].tolist() == counter.batches[1].items.tolist()
    assert (replayed.query.items[40:, -1] != PAD).all()
    assert set(replayed.query.now[40:].tolist()) <= {NOW + at for at in range(70)}
    assert replayed.weights.tolist() == [1.0] * 40 + [0.25] * 20


def test_under_load_gradient_models_train_on_a_sample_and_counters_on_all(folded: Store, learned: Store) -> None:
    fold(folded, [value(*[view(f"u{at}", f"i{at % 9}", at) for at in range(1000)])])
    counter, gradient = Watcher("counter", replays=False), Watcher()
    stage = stage_of(learned, folded, counter, gradient, config=LearnConfig(replay_ratio=0))
    result = stage.step(NOW, max_trained=300)
    assert counter.num_learned == 1000
    assert gradient.num_learned == 300
    assert (result.num_sampled_out, stage.sampled_out_total) == (700, 700)
    assert [len(batch.items) for batch in gradient.batches] == [256, 44]
    at = np.concatenate([batch.query.now for batch in gradient.batches])
    assert (np.diff(at) > 0).all()  # still in arrival order
    assert at.min() < NOW + 100 < NOW + 900 < at.max()
    assert stage_of(learned, folded, Watcher("counter", False), Watcher()).sampled_out_total == 700


def test_an_observer_sees_each_batch_before_it_is_learned(folded: Store, learned: Store) -> None:
    fold(folded, [value(*[view(f"u{at}", f"i{at}", at) for at in range(600)])])
    watcher, seen = Watcher(), []

    def observe(batch: Batch, models: Mapping[str, Model]) -> None:
        seen.append((len(batch.items), models["watcher"].num_items))

    stage_of(learned, folded, watcher, config=LearnConfig(replay_ratio=0)).step(NOW, observer=observe)
    assert seen == [(256, 0), (256, 256), (88, 512)]


def test_hit_rates_count_wanted_items_a_model_ranked_high_before_it_learned_them(folded: Store, learned: Store) -> None:
    config = LearnConfig(batch_size=10, prequential=PrequentialConfig(rows_per_batch=10))
    events = [view(f"u{at}", f"i{at % 10}", at) for at in range(30)]
    fold(folded, [value(*events)])
    stage = stage_of(learned, folded, Watcher(), config=config)
    stage.step(NOW)
    assert stage.prequential.hit_rates()["watcher"] == pytest.approx(1 / 2, abs=0.01)  # first and third batch
    assert stage_of(learned, folded, Watcher()).prequential.hit_rates() == stage.prequential.hit_rates()


def test_a_changed_model_configuration_is_refused(folded: Store, learned: Store) -> None:
    stage_of(learned, folded, Popularity())
    with pytest.raises(StoreConfigurationChanged, match="half_life_seconds"):
        stage_of(learned, folded, Popularity(PopularityConfig(half_life_seconds=60.0)))


def test_deltas_trimmed_before_they_were_learned_are_missed_loudly(folded: Store, learned: Store) -> None:
    fold(folded, [value(view("u", f"i{at}", at)) for at in range(5)], FoldConfig(max_events=1))
    with folded.write() as txn:
        DeltaLog(folded).trim(txn, keep_after_ms=NOW + 10**9, keep_after_version=3)
    with pytest.raises(DeltaGap, match="1 is needed"):
        stage_of(learned, folded).step(NOW)


def test_a_failed_commit_is_learned_again_as_if_it_had_not_been(
    folded: Store, learned: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [value(event) for event in random_events(300)]
    fold(folded, values, FoldConfig(max_events=50))
    config = LearnConfig(max_entries_per_step=60)
    with Store(tmp_path / "whole", "learn", writer=True) as whole:
        stage = stage_of(whole, folded, config=config)
        while stage.step(NOW).num_deltas:
            pass
        expected = dump(whole)
    stage = stage_of(learned, folded, config=config)
    stage.step(NOW)

    def refuse(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("stream.learn.put_version", refuse)
    with pytest.raises(OSError, match="no space"):
        stage.step(NOW)
    monkeypatch.undo()
    stage = stage_of(learned, folded, config=config)
    while stage.step(NOW).num_deltas:
        pass
    assert dump(learned) == expected


def test_two_learners_with_one_seed_hold_the_same_bits(folded: Store, tmp_path: Path) -> None:
    fold(folded, [value(event) for event in random_events(600)], FoldConfig(max_events=100))
    watchers = []
    for name in ("one", "two"):
        watcher = Watcher()
        with Store(tmp_path / name, "learn", writer=True) as learned:
            stage = stage_of(learned, folded, watcher, config=LearnConfig(max_entries_per_step=100))
            while stage.step(NOW, max_trained=50).num_deltas:
                pass
        watchers.append(watcher)
    one, two = watchers
    for first, second in zip(one.batches, two.batches, strict=True):
        np.testing.assert_array_equal(first.items, second.items)
        np.testing.assert_array_equal(first.query.items, second.query.items)


def test_the_generator_goes_on_where_it_was_committed(folded: Store, tmp_path: Path) -> None:
    fold(folded, [value(event) for event in random_events(400)], FoldConfig(max_events=50))
    config = LearnConfig(max_entries_per_step=1)
    drawn: dict[str, list[list[int]]] = {}
    for name in ("whole", "restarted"):
        drawn[name] = []
        with Store(tmp_path / name, "learn", writer=True) as learned:
            watcher = Watcher()
            stage = stage_of(learned, folded, watcher, config=config)
            while stage.step(NOW, max_trained=20).num_deltas:
                if name == "restarted":
                    drawn[name] += [batch.items.tolist() for batch in watcher.batches]
                    watcher = Watcher()
                    stage = stage_of(learned, folded, watcher, config=config, seed=99)
            drawn[name] += [batch.items.tolist() for batch in watcher.batches]
    assert drawn["restarted"] == drawn["whole"]


@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 1000), cut=st.integers(1, 40), size=st.integers(1, 60), batch=st.integers(1, 50))
def test_counters_do_not_depend_on_where_fold_or_learn_were_cut_and_restarted(
    seed: int, cut: int, size: int, batch: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    values = [value(event) for event in random_events(150, seed, num_users=5)]
    base = tmp_path_factory.mktemp("cuts")
    with Store(base / "fold", "fold", writer=True) as folded, Store(base / "learn", "learn", writer=True) as learned:
        fold(folded, values)
        stage_of(learned, folded).step(NOW)
        expected = dump(learned)
    with Store(base / "fold2", "fold", writer=True) as folded, Store(base / "learn2", "learn", writer=True) as learned:
        config = LearnConfig(batch_size=batch, max_entries_per_step=size)
        while FoldStage(folded, IterableSource(stamped(values)), config=FoldConfig(max_events=cut)).step().num_messages:
            stage_of(learned, folded, config=config).step(NOW)
        while stage_of(learned, folded, config=config).step(NOW).num_deltas:
            pass
        assert dump(learned) == expected


def test_a_later_signal_of_the_same_item_and_request_refines_the_earlier(folded: Store, learned: Store) -> None:
    shown = {"request_id": "r"}
    events = [
        view("u", "a", 1, type="skip", **shown),
        view("u", "b", 2, **shown),
        view("u", "a", 3, **shown),
        view("u", "a", 4, type="like", **shown),
        view("u", "a", 5, request_id="another"),
        view("u", "c", 6),
    ]
    fold(folded, [value(*events)])
    watcher = Watcher()
    stage_of(learned, folded, watcher, config=LearnConfig(replay_ratio=0)).step(NOW)
    query = watcher.batches[0].query
    histories = [names_of(learned, history) for history in query.items]
    assert histories == [[], ["a"], ["b"], ["b"], ["b", "a"], ["b", "a", "a"]]
    assert query.items[4].tolist()[:-2] == [PAD] * 3  # no holes
    assert query.at[5, -4:].tolist() == [0, NOW + 2, NOW + 4, NOW + 5]
    assert query.labels[4, -2:].tolist() == [1, 1]


def test_signals_without_a_request_refine_nothing(folded: Store, learned: Store) -> None:
    fold(folded, [value(view("u", "a", 1), view("u", "a", 2, request_id="r"), view("u", "a", 3), view("u", "b", 4))])
    watcher = Watcher()
    stage_of(learned, folded, watcher, config=LearnConfig(replay_ratio=0)).step(NOW)
    assert names_of(learned, watcher.batches[0].query.items[3]) == ["a", "a", "a"]
