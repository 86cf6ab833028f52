# The dictionary: numbers that are never reused.
from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.dictionary import Dictionary
from state.store import Store, StoreError


def test_numbers_come_in_order_of_first_use_and_survive(tmp_path: Path) -> None:
    with Store(tmp_path / "s", "fold", writer=True) as store:
        dictionary = Dictionary(store)
        assert [dictionary.number(name) for name in ("b", "a", "b", "ü" * 128)] == [0, 1, 0, 2]
        with store.write() as txn:
            dictionary.flush(txn)
        assert dictionary.number("later") == 3
        with store.write() as txn:
            dictionary.flush(txn)
    with Store(tmp_path / "s") as store:
        dictionary = Dictionary(store)
        assert [dictionary.name(number) for number in range(len(dictionary))] == ["b", "a", "ü" * 128, "later"]


def test_what_was_not_committed_is_forgotten_with_the_object(tmp_path: Path) -> None:
    with Store(tmp_path / "s", "fold", writer=True) as store:
        Dictionary(store).number("lost")
        assert Dictionary(store).number("other") == 0


def test_a_dictionary_that_another_got_ahead_of_writes_nothing_over_it(tmp_path: Path) -> None:
    with Store(tmp_path / "s", "fold", writer=True) as store:
        one, other = Dictionary(store), Dictionary(store)
        one.number("a")
        other.number("b")
        with store.write() as txn:
            one.flush(txn)
        with pytest.raises(StoreError, match="open the store anew"), store.write() as txn:
            other.flush(txn)
        assert Dictionary(store).name(0) == "a"


def test_find_assigns_nothing_and_unknown_numbers_have_no_name(tmp_path: Path) -> None:
    with Store(tmp_path / "s", "fold", writer=True) as store:
        dictionary = Dictionary(store)
        assert dictionary.find("a") == -1
        assert len(dictionary) == 0
        for number in (0, -1):
            with pytest.raises(IndexError):
                dictionary.name(number)


def test_a_reader_takes_in_what_the_writer_appended(tmp_path: Path) -> None:
    with Store(tmp_path / "s", "fold", writer=True) as store:
        writer, reader = Dictionary(store), Dictionary(store)
        for name in ("a", "b", "c"):
            writer.number(name)
            with store.write() as txn:
                writer.flush(txn)
            with store.read() as txn:
                assert reader.refresh(txn) == 1
                assert reader.refresh(txn) == 0
        assert [reader.find(name) for name in ("a", "b", "c")] == [0, 1, 2]


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20), unique=True))
def test_every_item_id_comes_back_as_it_is(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    with Store(tmp_path_factory.mktemp("d"), "fold", writer=True) as store:
        dictionary = Dictionary(store)
        for name in names:
            dictionary.number(name)
        with store.write() as txn:
            dictionary.flush(txn)
        read = Dictionary(store)
        assert [read.name(number) for number in range(len(read))] == names
