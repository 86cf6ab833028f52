# Data sets become our events, in stream order, and what is absent or wrong is named.
from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from state.signals import SignalTable
from stream.event import EventDecoder
from stream.readers import DataError, open_data_set


@pytest.fixture
def globo_file(tmp_path: Path) -> Path:
    """Two clicks with the columns of the Globo set."""
    columns = {
        "user_id": [7, 8],
        "session_id": [70, 80],
        "session_size": [2, 2],
        "click_article_id": [100, 200],
        "click_timestamp": [1_506_826_800_026, 1_506_826_801_702],
    }
    for name in ("environment", "deviceGroup", "os", "country", "region", "referrer_type"):
        columns[f"click_{name}"] = [1, 2]
    path = tmp_path / "clicks.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_a_globo_click_becomes_a_click_event_with_its_session_and_context(globo_file: Path) -> None:
    events, num_events = open_data_set("globo", globo_file)
    first = json.loads(next(events).value)
    assert num_events == 2
    assert first == {
        "event_id": "globo-0",
        "type": "click",
        "user_id": "7",
        "item_id": "100",
        "timestamp": 1_506_826_800_026,
        "session_id": "70",
        "context": dict.fromkeys(["environment", "device", "os", "country", "region", "referrer"], "1"),
    }


def test_the_future_of_a_session_is_never_read(globo_file: Path) -> None:
    events, _ = open_data_set("globo", globo_file)
    assert all(b"session_size" not in event.value for event in events)


def test_a_limit_cuts_the_stream_and_its_count(globo_file: Path) -> None:
    events, num_events = open_data_set("globo", globo_file, limit=1)
    assert (len(list(events)), num_events) == (1, 1)


def test_stars_become_signals_in_time_order(tmp_path: Path) -> None:
    path = tmp_path / "u.data"
    path.write_text("1\t10\t5\t300\n2\t20\t1\t100\n3\t30\t3\t200\n")
    events = [json.loads(event.value) for event in open_data_set("ml-100k", path)[0]]
    times = [event["timestamp"] for event in events]
    assert [time - times[0] for time in times] == [0, 100_000, 200_000]
    assert [(event["type"], event["value"]) for event in events] == [("dislike", 1.0), ("view", 3.0), ("like", 5.0)]


@pytest.mark.parametrize("name", ["diginetica", "ml-100k"])
def test_events_of_sets_without_our_clock_pass_the_schema(name: str, tmp_path: Path) -> None:
    path = tmp_path / "data"
    if name == "ml-100k":
        path.write_text("1\t10\t5\t874724710\n")
    else:
        pq.write_table(pa.table({"period": [0], "session": [1], "item": [5]}), path)
    event = next(open_data_set(name, path)[0])
    decoded = EventDecoder(SignalTable()).decode(event.value, event.timestamp)
    assert decoded.rejected == []
    assert len(decoded.events) == 1


def test_diginetica_weeks_become_weeks_of_event_time(tmp_path: Path) -> None:
    path = tmp_path / "stream.parquet"
    pq.write_table(pa.table({"period": [0, 0, 1], "session": [1, 1, 2], "item": [5, 6, 7]}), path)
    times = [event.timestamp for event in open_data_set("diginetica", path)[0]]
    assert [time - times[0] for time in times] == [0, 1000, 7 * 24 * 3_600_000]


def test_our_own_events_are_read_as_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"type":"view","timestamp":1763649000123}\n\n{"type":"skip","timestamp":1763649000124}\n')
    assert [event.timestamp for event in open_data_set("events", path)[0]] == [1763649000123, 1763649000124]


def test_an_unknown_name_lists_the_valid_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'netflix'.*globo"):
        open_data_set("netflix", tmp_path)


def test_an_absent_file_is_named_with_the_setting_that_finds_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"globo/clicks\.parquet.*RUNNEL_DATA"):
        open_data_set("globo", tmp_path)


def test_a_file_without_a_column_names_file_and_column(tmp_path: Path) -> None:
    path = tmp_path / "clicks.parquet"
    pq.write_table(pa.table({"user_id": [1]}), path)
    with pytest.raises(DataError, match=r"clicks\.parquet lacks the column 'session_id'"):
        next(open_data_set("globo", path)[0])


def test_a_line_that_is_no_event_is_named_by_number(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"timestamp":1763649000123}\n{broken\n')
    events, _ = open_data_set("events", path)
    next(events)
    with pytest.raises(DataError, match="line 2"):
        next(events)
