# Sources that are not a log of ours.
from __future__ import annotations

import pytest

from stream.source import IterableSource


def test_a_list_is_read_in_order_with_its_stamps() -> None:
    source = IterableSource([(5, b"a"), (6, b"b"), (7, b"c")])
    assert [(m.offset, m.received_at, m.value) for m in source.poll(2, 0)] == [(0, 5, b"a"), (1, 6, b"b")]
    assert [m.offset for m in source.poll(2, 0)] == [2]
    assert source.poll(2, 0) == []
    assert source.end_offsets() == {source.partitions()[0]: 3}


def test_a_stage_that_read_part_of_it_before_goes_on_after_that_part() -> None:
    source = IterableSource((at, b"%d" % at) for at in range(10))
    source.seek("values-0", 4)
    assert [m.value for m in source.poll(2, 0)] == [b"4", b"5"]


def test_an_iterable_cannot_go_back() -> None:
    source = IterableSource([(5, b"a"), (6, b"b")])
    source.poll(1, 0)
    with pytest.raises(ValueError, match="is at 1"):
        source.seek("values-0", 0)
