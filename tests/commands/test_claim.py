# One `runnel up` a home, and orphans of a killed one are ended, nobody else's.
from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from commands.claim import Claim, holder
from commands.errors import CommandError
from commands.processes import note_of, read_note, write_note
from tests.commands.stand_ins import HOLDER_OF_HOME, PARENT_OF_SLEEPER, SLEEPER, first_number, is_alive


def _hold(home: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER_OF_HOME, str(home), *PARENT_OF_SLEEPER]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "holding\n"
    return process


def test_a_second_run_of_a_home_is_refused_naming_the_first_ones_pid(tmp_path: Path) -> None:
    first = Claim(tmp_path)
    with pytest.raises(CommandError, match=rf"{tmp_path} is already run by process {os.getpid()} "):
        Claim(tmp_path)
    first.release()
    Claim(tmp_path).release()


def test_two_homes_are_claimed_side_by_side(tmp_path: Path) -> None:
    claims = [Claim(tmp_path / "a"), Claim(tmp_path / "b")]
    assert claims[0].instance != claims[1].instance
    for claim in claims:
        claim.release()


def test_holder_is_known_while_it_lives_and_not_after_it_was_killed(tmp_path: Path) -> None:
    with _hold(tmp_path) as process:
        note = holder(tmp_path)
        assert note is not None
        assert note.pid == process.pid
        process.kill()
        process.wait()
        assert holder(tmp_path) is None
        Claim(tmp_path).release()


def test_after_sigkill_the_next_claim_ends_the_orphans_and_what_they_started(tmp_path: Path) -> None:
    with _hold(tmp_path) as process:
        note = read_note(tmp_path / "run" / "stage.pid")
        assert note is not None
        grandchild = first_number(tmp_path / "run" / "stage.log")
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert is_alive(note.pid)
        claim = Claim(tmp_path)
        assert {note.pid, grandchild} <= set(claim.ended)
        assert not is_alive(note.pid)
        assert not is_alive(grandchild)
        claim.release()


def test_a_process_that_got_an_old_pid_is_not_ours_and_lives_on(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with subprocess.Popen(SLEEPER) as stranger:
        note = dataclasses.replace(note_of(stranger.pid, "fold"), started_at=1.0)
        write_note(tmp_path / "run" / "fold.pid", note)
        claim = Claim(tmp_path)
        assert claim.ended == []
        assert is_alive(stranger.pid)
        claim.release()
        stranger.kill()


def test_a_pid_file_that_a_crash_left_empty_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "fold.pid").write_text("")
    (tmp_path / "run" / "up.lock").write_text('{"pid": ')
    Claim(tmp_path).release()
