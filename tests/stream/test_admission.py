# Floods of ids: tables stay within their bound by admission and expiry, in every store alike, whatever the commits.
from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.base import Model
from models.registry import MODELS, build_models
from models.tables import RowTable
from state.dictionary import Dictionary
from state.dump import dump, dump_serving
from state.follower import Follower, StoreSource
from state.record import RecordLimits
from state.records import read_record
from state.signals import SignalTable
from state.store import Store
from state.view import View
from stream.admission import NOT_ADMITTED, Admission, AdmissionConfig
from stream.fold import FoldConfig
from stream.learn import LearnConfig, LearnStage
from tests.stream.helpers import NOW, JsonEvent, fold, value, view

SMALL = AdmissionConfig(max_items=16, admit_after_full=2)
COUNTERS = ("popularity", "trending", "covisitation")


def stage_of(learned: Store, folded: Store, models: Iterable[str], admission: AdmissionConfig, **of: int) -> LearnStage:
    config = LearnConfig(admission=admission, **of)  # type: ignore[arg-type]
    built = build_models(models)
    return LearnStage(learned, {"fold-0": StoreSource(folded)}, built, np.random.default_rng(0), config=config)


def learn_all(stage: LearnStage) -> LearnStage:
    while stage.step(NOW).num_deltas:
        pass
    return stage


def num_rows(models: dict[str, Model]) -> dict[str, int]:
    """Table → how many rows are set."""
    return {
        f"{name}/{key}": int(table.present.sum())
        if isinstance(table, RowTable)
        else sum(map(bool, table.rows.values()))
        for name, model in models.items()
        for key, table in model.tables.items()
    }


def flood(num_events: int, num_items: int, seed: int = 0) -> list[JsonEvent]:
    """Clicks of few users; the items drift, so that old ones are not seen again, or long afterwards."""
    rng = np.random.default_rng(seed)
    events = []
    for at in range(num_events):
        item = (
            int(rng.integers(num_items)) if rng.random() < 0.2 else int(at * num_items / num_events + rng.integers(9))
        )
        events.append(view(f"u{rng.integers(7)}", f"i{item}", at, event_id=f"e{at}"))
    return events


def test_tables_stay_within_the_bound_and_every_home_holds_the_same(
    folded: Store, learned: Store, tmp_path: Path
) -> None:
    stage = stage_of(learned, folded, MODELS, SMALL, max_entries_per_step=50, batch_size=16)
    views = View(folded, learned, lambda _: build_models(MODELS))
    values: list[bytes] = []
    with Store(tmp_path / "node", "follow", writer=True) as node:
        follower = Follower(node, SignalTable())
        events = flood(900, 200)
        for start in range(0, len(events), 60):
            values.append(value(*events[start : start + 60]))
            fold(folded, values)
            learn_all(stage)
            assert max(num_rows(stage.models).values()) <= 16
            follower.step("learn", StoreSource(learned), NOW)
            views.refresh()
            with views.read() as home:
                counted = {name: count for name, count in num_rows(dict(home.models)).items() if count > 16}
                assert not counted
        with node.read() as theirs, learned.read() as own:
            assert dump_serving(theirs, node) == dump_serving(own, learned)
    whole = View(folded, learned, lambda _: build_models(MODELS))
    whole.refresh()
    with views.read() as followed, whole.read() as loaded:
        for name, model in followed.models.items():
            for key, table in model.tables.items():
                other = loaded.models[name].tables[key]
                if isinstance(table, RowTable):
                    assert isinstance(other, RowTable)
                    assert np.flatnonzero(table.present).tolist() == np.flatnonzero(other.present).tolist()
                    rows = np.flatnonzero(table.present)
                    assert (table.values[rows] == other.values[rows]).all()
    views.close()
    whole.close()
    assert len(Dictionary(learned)) > 60  # many came and went


def test_an_item_that_comes_back_after_its_expiry_is_learned_from_nothing(folded: Store, learned: Store) -> None:
    events = [view("u", "old", 0), view("u", "old", 1)]
    events += [view("u", f"i{at // 2}", 10 + at) for at in range(60)]
    fold(folded, [value(*events)])
    stage = learn_all(stage_of(learned, folded, COUNTERS, SMALL))
    number = Dictionary(learned).find("old")
    counts = stage.models["popularity"].tables["counts"]
    assert isinstance(counts, RowTable)
    assert counts.values[number, 0] == -np.inf
    fold(folded, [b"[]", value(view("u", "old", 100), view("u", "old", 101))])
    learn_all(stage)
    assert Dictionary(learned).find("old") == number
    assert counts.values[number, 0] == 0.0  # log2 of one taking: the first of the two was a sighting alone


def test_ids_seen_once_get_no_rows_while_the_tables_are_full(folded: Store, learned: Store) -> None:
    regulars = [view("u", f"regular{at % 16}", at) for at in range(64)]
    strangers = [view("v", f"stranger{at}", 100 + at) for at in range(300)]
    fold(folded, [value(*regulars, *strangers)])
    stage = learn_all(stage_of(learned, folded, ["blend"], SMALL))
    assert len(Dictionary(learned)) == 16
    assert max(num_rows(stage.models).values()) == 16
    with learned.read() as txn:
        assert b"v" not in [key for key, _ in txn.cursor(learned.db("sequence"))]


def test_the_room_that_an_expiry_makes_is_not_taken_at_first_sight(folded: Store, learned: Store) -> None:
    events = [view("u", f"regular{at % 32}", at) for at in range(160)]
    events += [view("u", "late", 300), view("u", "late", 301)]  # two give way to it: there is room for one more
    events += [view("v", f"stranger{at}", 1000 + at) for at in range(80)]
    fold(folded, [value(*events)])
    learn_all(stage_of(learned, folded, COUNTERS, AdmissionConfig(max_items=32, admit_after_full=2)))
    dictionary = Dictionary(learned)
    names = [dictionary.name(number) for number in range(len(dictionary))]
    assert "late" in names
    assert not [name for name in names if name.startswith("stranger")]


def test_with_more_sightings_asked_for_an_id_is_learned_from_the_last_of_them_on(folded: Store, learned: Store) -> None:
    fold(folded, [value(*[view("u", "a", at) for at in range(4)], view("u", "b", 9))])
    stage = learn_all(stage_of(learned, folded, COUNTERS, AdmissionConfig(admit_after=3)))
    assert len(Dictionary(learned)) == 1
    counts = stage.models["popularity"].tables["counts"]
    assert isinstance(counts, RowTable)
    assert counts.values[0, 0] == 1.0  # two takings


def flood_by_one_user() -> list[JsonEvent]:
    """20,000 events of one user in two seconds."""
    return [view("flooder", f"i{at % 3000}", at // 10, event_id=f"e{at}") for at in range(20_000)]


def flood_of_one_item() -> list[JsonEvent]:
    """One item in every event, by as many users."""
    return [view(f"u{at}", "hub", at // 10, event_id=f"e{at}") for at in range(20_000)]


@pytest.mark.parametrize("events_of", [flood_by_one_user, flood_of_one_item])
def test_a_flood_leaves_bounded_rows_and_models_that_others_are_served_by(
    folded: Store, learned: Store, events_of: Callable[[], list[JsonEvent]]
) -> None:
    calm, events = (
        [view(f"calm{at % 40}", f"c{(at * 7 + at // 40) % 20}", at - 5_000) for at in range(400)],
        events_of(),
    )
    fold(folded, [value(*calm), *(value(*events[start : start + 1000]) for start in range(0, len(events), 1000))])
    stage = stage_of(learned, folded, list(MODELS), AdmissionConfig(max_items=500))
    while (result := stage.step(NOW, max_trained=2048)).num_deltas:
        assert result.held == {}
        assert result.refused == {}
    cells = stage.models["covisitation"].tables["cells"]
    assert not isinstance(cells, RowTable)
    assert max(map(len, cells.rows.values())) <= 2 * 512
    assert len(cells.rows) <= 500
    for model in stage.models.values():
        for table in model.tables.values():
            if isinstance(table, RowTable):
                assert int(table.present.sum()) <= 500
                assert np.isfinite(table.values[: table.size][table.present[: table.size]]).all()
    with folded.read() as txn:
        record = read_record(txn, folded, b"flooder")
        assert len(record.sequence.rows) <= RecordLimits().sequence
        assert read_record(txn, folded, b"calm1").sequence.rows


@settings(max_examples=12, deadline=None)
@given(cut=st.integers(1, 90), size=st.integers(1, 200), batch=st.integers(1, 64), restart=st.booleans())
def test_counters_do_not_depend_on_commits_though_items_come_and_go(
    tmp_path_factory: pytest.TempPathFactory, cut: int, size: int, batch: int, restart: bool
) -> None:
    base = tmp_path_factory.mktemp("cuts")
    values = [value(*flood(400, 150)[start : start + 20]) for start in range(0, 400, 20)]
    dumps = []
    for name, events, entries, examples in (("one", 10_000, 10_000, 256), ("cut", cut, size, batch)):
        with (
            Store(base / f"{name}-fold", "fold", writer=True) as folded,
            Store(base / f"{name}-learn", "learn", writer=True) as learned,
        ):
            fold(folded, values, FoldConfig(max_events=events))
            stage = stage_of(learned, folded, COUNTERS, SMALL, max_entries_per_step=entries, batch_size=examples)
            while stage.step(NOW).num_deltas:
                if restart and name == "cut":
                    stage = stage_of(
                        learned, folded, COUNTERS, SMALL, max_entries_per_step=entries, batch_size=examples
                    )
            with learned.read() as txn:
                used = list(txn.cursor(learned.db("items_used"))), list(txn.cursor(learned.db("items_sighted")))
            dumps.append((dump(learned), used))
    assert dumps[0] == dumps[1]


def test_an_admission_opened_again_goes_on_as_if_it_had_not_been_closed(learned: Store) -> None:
    names = [f"i{number}" for number in range(40)]
    rng = np.random.default_rng(3)
    deltas = [rng.integers(40, size=25) for _ in range(20)]
    steady = Dictionary(learned)
    admission = Admission(learned, steady, SMALL)
    expected = [admission.admit(places, names) for places in deltas]
    found = []
    for places in deltas:
        dictionary = Dictionary(learned)
        admission = Admission(learned, dictionary, SMALL)
        found.append(admission.admit(places, names))
        with learned.write() as txn:
            dictionary.flush(txn)
            admission.flush(txn)
    assert [one.numbers.tolist() for one in found] == [one.numbers.tolist() for one in expected]
    assert [[(n, gone.tolist()) for n, gone in one.expired] for one in found] == [
        [(n, gone.tolist()) for n, gone in one.expired] for one in expected
    ]
    assert any(NOT_ADMITTED in one.numbers for one in found)


def test_a_bound_below_one_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="max_items = 0"):
        AdmissionConfig(max_items=0)
