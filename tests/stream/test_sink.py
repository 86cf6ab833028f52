# The group commit: an acknowledged value is in the log, an error reaches who waits, and closing loses nothing.
from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.store_errors import StoreFull
from stream.log import EventLog, EventLogConfig
from stream.sink import LogSink, LogSinkConfig, SinkClosed, SinkFull, pack_values


class HeldLog(EventLog):
    """A log whose appends wait until the test lets them go."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.entered, self.go = threading.Event(), threading.Event()
        self.groups: list[int] = []

    def append(self, values: Sequence[bytes], received_at: int) -> int:
        self.groups.append(len(values))
        self.entered.set()
        assert self.go.wait(30)
        return super().append(values, received_at)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    log = EventLog(tmp_path / "log")
    yield log
    log.close()


@pytest.fixture
def held(tmp_path: Path) -> Iterator[HeldLog]:
    log = HeldLog(tmp_path / "held")
    yield log
    log.close()


def values_of(log: EventLog) -> list[bytes]:
    return [message.value for message in log.read(0, 100_000)]


def test_a_value_is_in_the_log_at_its_offset_once_acknowledged(log: EventLog) -> None:
    sink = LogSink(log, lambda: 77)
    assert sink.append(b"a").result(30) == 0
    assert values_of(log) == [b"a"]
    assert sink.append(b"b").result(30) == 1
    assert log.read(0, 9)[1].received_at == 77
    sink.close()


def test_values_of_many_threads_all_get_their_own_offset(log: EventLog) -> None:
    sink = LogSink(log, lambda: 1)
    offsets: dict[bytes, int] = {}

    def write(name: int) -> None:
        futures = {value: sink.append(value) for value in (f"{name}-{n}".encode() for n in range(200))}
        offsets.update({value: future.result(30) for value, future in futures.items()})

    threads = [threading.Thread(target=write, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sink.close()
    assert {message.value: message.offset for message in log.read(0, 100_000)} == offsets
    assert len(offsets) == 1600


def test_what_comes_while_a_group_is_synced_goes_together_into_the_next(held: HeldLog) -> None:
    sink = LogSink(held, lambda: 1)
    futures = [sink.append(b"0")]
    assert held.entered.wait(30)
    futures += [sink.append(b"%d" % number) for number in range(1, 50)]
    held.go.set()
    assert [future.result(30) for future in futures] == list(range(50))
    assert held.groups == [1, 49]
    sink.close()


def test_closing_writes_all_that_waits_and_then_refuses(held: HeldLog) -> None:
    sink = LogSink(held, lambda: 1)
    futures = [sink.append(b"%d" % number) for number in range(10)]
    assert sink.append_unsynced(b"slate")
    held.go.set()
    sink.close()
    assert [future.result(0) for future in futures] == list(range(10))
    assert values_of(held)[10] == b"slate"
    with pytest.raises(SinkClosed):
        sink.append(b"late")


def test_an_unsynced_value_is_written_without_anyone_waiting_for_it(log: EventLog) -> None:
    sink = LogSink(log, lambda: 1, LogSinkConfig(unsynced_seconds=0.001))
    assert sink.append_unsynced(b"slate")
    sink.close()
    assert values_of(log) == [b"slate"]


def test_a_log_that_cannot_write_fails_who_waits_and_is_tried_again(tmp_path: Path) -> None:
    log = EventLog(tmp_path, EventLogConfig(map_bytes=1 << 20))
    sink = LogSink(log, lambda: 1, LogSinkConfig(max_value_bytes=4 << 20))
    with pytest.raises(StoreFull):
        sink.append(bytes(2 << 20)).result(30)
    assert sink.append(b"small").result(30) == 0
    sink.close()
    log.close()


def test_a_cancelled_future_harms_no_other(held: HeldLog) -> None:
    sink = LogSink(held, lambda: 1)
    first = sink.append(b"a")
    assert held.entered.wait(30)
    gone, last = sink.append(b"b"), sink.append(b"c")
    assert gone.cancel()
    held.go.set()
    assert (first.result(30), last.result(30)) == (0, 2)
    sink.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_that_ends_the_thread_leaves_nobody_waiting(log: EventLog) -> None:
    def broken_clock() -> int:
        raise ZeroDivisionError

    sink = LogSink(log, broken_clock)
    with pytest.raises(SinkClosed):
        sink.append(b"a").result(30)
    sink.close()


def test_a_sink_that_holds_too_much_refuses_and_drops_only_what_is_unsynced(held: HeldLog) -> None:
    sink = LogSink(held, lambda: 1, LogSinkConfig(max_pending_bytes=10))
    first = sink.append(b"0")
    assert held.entered.wait(30)
    second = sink.append(bytes(10))
    with pytest.raises(SinkFull):
        sink.append(b"1")
    assert not sink.append_unsynced(b"2")
    assert sink.dropped_total == 1
    held.go.set()
    assert (first.result(30), second.result(30)) == (0, 1)
    assert sink.append(b"3").result(30) == 2
    sink.close()


def test_a_value_too_large_for_a_delta_is_refused(log: EventLog) -> None:
    sink = LogSink(log, lambda: 1, LogSinkConfig(max_value_bytes=10))
    with pytest.raises(ValueError, match="a value of 11 bytes; at most 10"):
        sink.append(bytes(11))
    sink.close()


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**12).map(lambda number: b"%d" % number)), st.integers(1, 60))
def test_packed_values_hold_all_events_in_order_within_the_bound(events: list[bytes], max_bytes: int) -> None:
    values = list(pack_values(events, max_bytes))
    assert b",".join(value[1:-1] for value in values) == b",".join(events)
    for value in values:
        assert len(value) <= max_bytes or b"," not in value
