# Sessions: a fault of the disk is tried again, later each time; any other error leaves; a wanted store is waited for.
from __future__ import annotations

import errno
import logging
from pathlib import Path
from threading import Event, Thread

import lmdb
import pytest

from state.store_errors import StoreUnwritable
from stream.loan import borrowed
from stream.sessions import IsOver, SessionConfig, run_sessions
from tests.stream.waiting import wait_until

HASTY = SessionConfig(first_backoff=0.001, longest_backoff=0.004)


def test_a_fault_of_the_disk_is_tried_again_later_each_time_until_it_is_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stop, faults = Event(), [StoreUnwritable("full"), OSError(errno.EIO, "broken"), StoreUnwritable("full")] * 2

    def session(_: IsOver) -> None:
        if faults:
            raise faults.pop()
        stop.set()

    with caplog.at_level(logging.ERROR):
        run_sessions(tmp_path / "fold", stop, session, HASTY)
    waits = [message.split(" in ")[1].split(" s")[0] for message in caplog.messages if "stands still" in message]
    assert len(waits) == 6
    assert waits == sorted(waits)


@pytest.mark.parametrize("error", [ValueError("an invariant"), lmdb.CorruptedError("a page")])
def test_any_other_error_leaves(tmp_path: Path, error: Exception) -> None:
    def session(_: IsOver) -> None:
        raise error

    with pytest.raises(type(error)):
        run_sessions(tmp_path / "fold", Event(), session, HASTY)


def test_a_session_is_over_while_a_command_wants_the_store_and_the_next_one_begins_after_it(tmp_path: Path) -> None:
    (tmp_path / "fold").mkdir()
    stop, begun, ended = Event(), list[int](), list[int]()

    def session(is_over: IsOver) -> None:
        begun.append(1)
        wait_until(is_over)
        ended.append(1)

    running = Thread(target=run_sessions, args=(tmp_path / "fold", stop, session, HASTY), daemon=True)
    running.start()
    wait_until(lambda: len(begun) == 1)
    with borrowed(tmp_path / "fold"):
        wait_until(lambda: len(ended) == 1)
        assert len(begun) == 1
    wait_until(lambda: len(begun) == 2)
    stop.set()
    running.join(20)
    assert len(ended) == 2
