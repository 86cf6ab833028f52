# API keys from a person's side: making one, and what is refused without.
from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from commands.access import client_headers, home_key
from commands.errors import CommandError
from commands.settings import load_settings
from serving.keys import ALL_RIGHTS, find_key, parse_keys

ROOT = Path(__file__).resolve().parents[2]


def runnel(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "runnel.py"), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_up_open_to_other_machines_refuses_to_start_without_keys_and_says_how_to_make_one(tmp_path: Path) -> None:
    answer = runnel("up", "--home", str(tmp_path), "--host", "0.0.0.0", "--port", "9")
    assert answer.returncode == 2
    assert "runnel keys" in answer.stderr
    assert "RUNNEL_SERVE__KEYS_FILE" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert list(tmp_path.iterdir()) == []


def test_keys_prints_the_key_once_and_its_line_for_the_file() -> None:
    answer = runnel("keys", "shop", "--rights", "events,metrics")
    secret = answer.stderr.split()[-1]
    (key,) = parse_keys(answer.stdout, "standard output")
    assert key.name == "shop"
    assert key.rights == {"events", "metrics"}
    assert find_key([key], secret) == key
    assert secret not in answer.stdout
    assert secret != runnel("keys", "shop").stderr.split()[-1]


@pytest.mark.parametrize("arguments", [("a b",), ("#a",), ("a", "--rights", "cooking"), ("a", "--rights", "")])
def test_keys_refuses_what_would_not_read_back(arguments: tuple[str, ...]) -> None:
    answer = runnel("keys", *arguments)
    assert answer.returncode == 2
    assert answer.stdout == ""


def test_settings_take_keys_from_a_file_and_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("keys.txt").write_text(f"shop events {'a' * 64}\n")
    monkeypatch.setenv("RUNNEL_SERVE__KEYS_FILE", "keys.txt")
    monkeypatch.setenv("RUNNEL_SERVE__KEYS", f"board metrics {'b' * 64}")
    assert [key.name for key in load_settings().service_config().keys] == ["shop", "board"]
    Path("keys.txt").write_text("shop events not-a-hash\n")
    with pytest.raises(CommandError, match=r"^keys\.txt, line 1: [^-]*$"):
        load_settings().service_config()
    Path("keys.txt").unlink()
    with pytest.raises(CommandError, match=r"serve\.keys_file = 'keys\.txt': .*No such file"):
        load_settings().service_config()


def test_a_client_s_key_is_shown_by_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNEL_API_KEY", "not to be read")
    settings = load_settings()
    assert client_headers(settings) == {"X-API-Key": "not to be read"}
    assert "not to be read" not in f"{settings!r} {settings.model_dump()}"


def test_the_home_s_key_serves_its_owner_alone_and_is_sent_to_no_other_machine(tmp_path: Path) -> None:
    key = home_key(tmp_path)
    assert key.rights == ALL_RIGHTS
    assert home_key(tmp_path) == key
    (file,) = (tmp_path / "run").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.stat().st_uid == os.getuid()
    sent = client_headers(load_settings(home=tmp_path))["X-API-Key"]
    assert find_key([key], sent) == key
    assert client_headers(load_settings(home=tmp_path, host="example.org")) == {}
