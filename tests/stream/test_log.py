# The embedded event log: offsets, stamps, trimming, and several processes at once.
from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from state import generation
from state.store_errors import StoreFull
from stream.log import PARTITION, EventLog, EventLogConfig, LogSource

NUM_GENERATIONS, DEADLINE_SECONDS = 200, 60.0
COMPACT = """
import sys
from pathlib import Path
from stream.log import EventLog
from stream.log_compaction import compact_log
log = EventLog(Path(sys.argv[1]))
while True:
    compact_log(log)
"""
APPENDER = """
import sys
from pathlib import Path
from stream.log import EventLog
log = EventLog(Path(sys.argv[1]))
for number in range(100):
    log.append([f"{sys.argv[2]}-{number}-{part}".encode() for part in "ab"], 1000 + number)
"""


def test_a_poll_of_large_messages_is_bounded_in_bytes_and_loses_none(log: EventLog) -> None:
    log.append([b"%d" % number + bytes(6 << 20) for number in range(7)], 1)
    source = LogSource(log)
    polled = [source.poll(100, 0) for _ in range(4)]
    assert [len(messages) for messages in polled] == [3, 3, 1, 0]
    assert [message.offset for messages in polled for message in messages] == list(range(7))


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    log = EventLog(tmp_path / "log")
    yield log
    log.close()


def test_values_are_read_back_in_order_with_offsets_from_zero(log: EventLog) -> None:
    assert log.append([b"a", b"b"], 10) == 0
    assert log.append([b"c"], 11) == 2
    messages = log.read(1, 10)
    assert [(message.offset, message.received_at, message.value) for message in messages] == [
        (1, 10, b"b"),
        (2, 11, b"c"),
    ]
    assert log.end_offset() == 3


def test_a_log_opened_again_goes_on_where_it_ended(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.append([b"a"], 10)
    log.close()
    log = EventLog(tmp_path)
    assert log.append([b"b"], 11) == 1
    log.close()


def test_the_stamp_never_goes_back_when_the_clock_does(log: EventLog) -> None:
    log.append([b"a"], 100)
    log.append([b"b"], 40)
    assert [message.received_at for message in log.read(0, 10)] == [100, 100]


def test_trimming_drops_what_is_below_the_offset_and_older_than_the_time(log: EventLog) -> None:
    for at in range(10):
        log.append([b"x"], at)
    assert log.trim(before_offset=8, before_received_at=5) == 5
    assert log.begin_offset() == 5
    assert log.trim(before_offset=7, before_received_at=100) == 2
    assert [message.offset for message in log.read(0, 100)] == [7, 8, 9]


def test_trimming_everything_keeps_the_newest_record_so_that_offsets_and_stamps_go_on(log: EventLog) -> None:
    log.append([b"a", b"b"], 50)
    assert log.trim(before_offset=99, before_received_at=99) == 1
    assert log.append([b"c"], 10) == 2
    assert log.read(2, 1)[0].received_at == 50


def test_several_processes_append_and_no_value_is_lost_or_torn(log: EventLog, tmp_path: Path) -> None:
    command = [sys.executable, "-c", APPENDER, str(tmp_path / "log")]
    processes = [subprocess.Popen([*command, name]) for name in "pqr"]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    messages = log.read(0, 10_000)
    assert [message.offset for message in messages] == list(range(600))
    for name in "pqr":
        own = [message.value for message in messages if message.value.startswith(name.encode())]
        assert own == [f"{name}-{number}-{part}".encode() for number in range(100) for part in "ab"]
    stamps = [message.received_at for message in messages]
    assert stamps == sorted(stamps)


def test_a_full_log_says_so_and_keeps_what_it_had(tmp_path: Path) -> None:
    log = EventLog(tmp_path, EventLogConfig(map_bytes=1 << 20))
    log.append([b"first"], 1)
    with pytest.raises(StoreFull):
        log.append([bytes(2 << 20)], 2)
    assert [message.value for message in log.read(0, 10)] == [b"first"]
    log.close()


def test_a_source_reads_on_from_where_it_was_sent(log: EventLog) -> None:
    source = LogSource(log)
    log.append([b"a", b"b", b"c"], 1)
    source.seek(PARTITION, 1)
    assert [message.value for message in source.poll(1, 0)] == [b"b"]
    assert [message.value for message in source.poll(10, 0)] == [b"c"]
    assert source.poll(10, 0) == []
    log.append([b"d"], 2)
    assert [message.value for message in source.poll(10, 0)] == [b"d"]
    assert source.end_offsets() == {PARTITION: 4}


def test_a_waiting_source_sees_what_another_process_appends(log: EventLog, tmp_path: Path) -> None:
    source = LogSource(log)
    process = subprocess.Popen([sys.executable, "-c", APPENDER, str(tmp_path / "log"), "p"])
    values: list[bytes] = []
    while len(values) < 200 and (messages := source.poll(1000, 30)):
        values += [message.value for message in messages]
    assert len(values) == 200
    assert process.wait(30) == 0


def test_a_source_refuses_an_offset_the_log_never_reached_and_one_that_was_trimmed(log: EventLog) -> None:
    source = LogSource(log)
    log.append([b"a", b"b", b"c"], 1)
    with pytest.raises(ValueError, match="offset 4 is past the end 3"):
        source.seek(PARTITION, 4)
    log.trim(before_offset=2, before_received_at=9)
    with pytest.raises(ValueError, match="offset 1 was trimmed"):
        source.seek(PARTITION, 1)
    with pytest.raises(ValueError, match="no partition 'clicks-3'"):
        source.seek("clicks-3", 0)
    source.seek(PARTITION, 0)  # a new store begins with the oldest there is
    assert [message.offset for message in source.poll(10, 0)] == [2]


def test_a_log_that_is_opened_and_appended_to_while_it_is_compacted_is_always_found(log: EventLog) -> None:
    log.append([b"first"], 1)
    log.close()
    appended, found = 1, set[str]()
    with subprocess.Popen([sys.executable, "-c", COMPACT, str(log.path)]) as compacting:
        give_up_at = monotonic() + DEADLINE_SECONDS
        try:
            while len(found) < NUM_GENERATIONS:
                assert monotonic() < give_up_at, f"{len(found)} generations opened"
                assert compacting.poll() is None
                other = EventLog(log.path)
                assert other.append([b"another"], 2) == appended
                appended += 1
                other.close()
                found.add(generation.current(log.path))
        finally:
            compacting.kill()
