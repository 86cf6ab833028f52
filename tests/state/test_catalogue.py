# The catalogue: newest timestamp wins, deletes are tombstones, first sightings are kept.
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from state.catalogue import Catalogue, CatalogueItem, read_first_seen, read_items
from state.columns import CatalogueColumns
from state.dictionary import Dictionary
from state.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "s", "fold", writer=True) as store:
        yield store


def flush(store: Store, catalogue: Catalogue, dictionary: Dictionary) -> None:
    with store.write() as txn:
        dictionary.flush(txn)
        catalogue.flush(txn)


def test_the_newest_timestamp_wins_before_and_after_a_flush(store: Store) -> None:
    dictionary = Dictionary(store)
    catalogue = Catalogue(store, dictionary)
    for _ in range(2):
        catalogue.upsert(CatalogueItem("i", 5, title="new"))
        assert not catalogue.upsert(CatalogueItem("i", 4, title="old"))
        assert not catalogue.upsert(CatalogueItem("i", 5, title="new"))
        flush(store, catalogue, dictionary)
    found = catalogue.get("i")
    assert found is not None
    assert found.title == "new"
    assert catalogue.get("unknown") is None


def test_a_tombstone_keeps_older_upserts_out_and_lets_newer_in(store: Store) -> None:
    dictionary = Dictionary(store)
    catalogue = Catalogue(store, dictionary)
    assert catalogue.delete("i", 5)
    flush(store, catalogue, dictionary)
    assert not catalogue.upsert(CatalogueItem("i", 4))
    assert catalogue.upsert(CatalogueItem("i", 6))


ITEMS = st.builds(
    lambda name, at, title, deleted: CatalogueItem(name, at, title=title, deleted=deleted),
    st.sampled_from("abc"),
    st.integers(1, 3),
    st.sampled_from("xyz"),
    st.booleans(),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.lists(ITEMS, max_size=12))
def test_order_and_repetition_of_upserts_do_not_matter(
    tmp_path_factory: pytest.TempPathFactory, items: list[CatalogueItem]
) -> None:
    found = []
    for way in (items, sorted(items + items, key=msgspec.msgpack.encode)):
        with Store(tmp_path_factory.mktemp("c"), "fold", writer=True) as store:
            dictionary = Dictionary(store)
            for name in "abc":
                dictionary.number(name)
            catalogue = Catalogue(store, dictionary)
            for item in way:
                catalogue.upsert(item)
            flush(store, catalogue, dictionary)
            with store.read() as txn:
                found.append(read_items(txn, store))
    assert found[0] == found[1]


def test_first_sightings_are_the_least_event_time_in_any_order(store: Store) -> None:
    dictionary = Dictionary(store)
    catalogue = Catalogue(store, dictionary)
    catalogue.saw(np.array([3, 1, 3]), np.array([50, 60, 40]))
    flush(store, catalogue, dictionary)
    catalogue = Catalogue(store, dictionary)
    catalogue.saw(np.array([3, 1]), np.array([45, 30]))
    flush(store, catalogue, dictionary)
    with store.read() as txn:
        numbers, at = read_first_seen(txn, store)
    assert dict(zip(numbers.tolist(), at.tolist(), strict=True)) == {1: 30, 3: 40}


def test_columns_say_what_can_be_recommended(store: Store) -> None:
    dictionary = Dictionary(store)
    catalogue = Catalogue(store, dictionary)
    for name in ("seen", "upserted", "gone", "out"):
        dictionary.number(name)
    catalogue.saw(np.array([0]), np.array([7]))
    catalogue.upsert(CatalogueItem("upserted", 1, categories=["a", "b"], published_at=9, features={"lang": "en"}))
    catalogue.delete("gone", 1)
    catalogue.upsert(CatalogueItem("out", 1, categories=["b"], available=False))
    flush(store, catalogue, dictionary)
    columns = CatalogueColumns({})
    with store.read() as txn:
        columns.load(txn, store)
    assert columns.size == 4
    assert columns.available[:4].tolist() == [True, True, False, False]
    assert columns.upserted[:4].tolist() == [False, True, False, True]
    assert columns.deleted[:4].tolist() == [False, False, True, False]
    assert columns.first_seen[:4].tolist() == [7, 0, 0, 0]
    assert columns.published_at[1] == 9
    assert columns.features[1] == {"lang": "en"}
    assert columns.categories[1] & columns.categories[3] == {columns.category_codes["b"]}


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9), st.booleans()), max_size=60), st.integers(0, 50))
def test_the_newest_items_are_those_of_a_sort_after_every_change(changes: list[tuple[int, int, bool]], k: int) -> None:
    columns = CatalogueColumns({})
    for number, at, is_upsert in changes:
        if is_upsert:
            columns.apply(number, CatalogueItem(str(number), at, published_at=at))
        else:
            columns.saw(np.array([number]), np.array([at]))
        born_at = columns.born_at(np.arange(columns.size))
        assert columns.newest(k).tolist() == np.lexsort((np.arange(columns.size), -born_at))[:k].tolist()
