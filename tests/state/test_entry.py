# Entries, slates and impressions as rows of bytes.
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.entry import ENTRY, ENTRY_BYTES, Entry, pack, unpack
from state.slate import (
    MAX_ITEMS,
    Impression,
    Slate,
    pack_impression,
    pack_slate,
    row_items,
    unpack_impression,
    unpack_slate,
    with_items,
)

U16, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))
ENTRIES = st.builds(Entry, U64, U64, U32, st.integers(1, 255), U16, U32, U32, U32, U32, st.floats(width=32))


@given(ENTRIES)
def test_an_entry_comes_back_as_it_was(entry: Entry) -> None:
    row = pack(entry)
    assert len(row) == ENTRY_BYTES == ENTRY.itemsize
    assert repr(unpack(row)) == repr(entry)  # repr: a NaN equals itself


@given(ENTRIES)
def test_numpy_reads_the_same_numbers(entry: Entry) -> None:
    found = np.frombuffer(pack(entry), ENTRY)[0]
    assert repr([found[name].item() for name in Entry._fields]) == repr(list(entry))


@given(ENTRIES, ENTRIES)
def test_byte_order_is_the_order_of_timestamp_and_hash(one: Entry, other: Entry) -> None:
    assert (pack(one)[:16] < pack(other)[:16]) == (one[:2] < other[:2])


SLATE = Slate(5, 6, 7, 8, (1, 2, 3), (10, 20, 30), (1.0, 0.5, 0.25))


def test_a_slate_comes_back_as_it_was() -> None:
    assert unpack_slate(pack_slate(SLATE)) == SLATE


def test_a_long_slate_keeps_its_first_places_and_fits_a_sorted_duplicate() -> None:
    row = pack_slate(SLATE._replace(items=(9,) * 100, sources=(1,) * 100, propensities=(0.5,) * 100))
    assert len(row) <= 511
    assert unpack_slate(row).items == (9,) * MAX_ITEMS


def test_a_slate_without_a_source_for_each_item_is_refused() -> None:
    with pytest.raises(ValueError, match="one source and one propensity"):
        pack_slate(SLATE._replace(sources=(1,)))


@pytest.mark.parametrize(
    "seen", [Impression(1, 2, 3), Impression(1, 2, 3, items=(4, 5)), Impression(1, 2, 3, positions=(0, 6))]
)
def test_an_impression_comes_back_as_it_was(seen: Impression) -> None:
    assert unpack_impression(pack_impression(seen)) == seen
    assert len(pack_impression(seen._replace(items=(1,) * 99, positions=(1,) * 99))) <= 511


def test_item_numbers_of_a_row_can_be_exchanged_and_nothing_else_moves() -> None:
    row = with_items(pack_slate(SLATE), np.array([7, 8, 9]))
    assert unpack_slate(row) == SLATE._replace(items=(7, 8, 9))
    assert row_items(row).tolist() == [7, 8, 9]
