# Settings: which source wins, and errors that name key, value and source.
from __future__ import annotations

from pathlib import Path

import pytest

from commands.errors import CommandError
from commands.settings import load_settings


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "HOST", "PORT", "DATA", "SEED", "CONFIG"):
        monkeypatch.delenv(f"RUNNEL_{name}", raising=False)


def test_every_setting_has_a_default() -> None:
    settings = load_settings()
    assert (settings.home, settings.host, settings.port) == (Path("runnel-home"), "127.0.0.1", 8000)


def test_flags_win_over_environment_and_environment_over_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("runnel.toml").write_text('host = "0.0.0.0"\nport = 1\nseed = 1\n')
    monkeypatch.setenv("RUNNEL_PORT", "2")
    monkeypatch.setenv("RUNNEL_SEED", "2")
    settings = load_settings(seed=3, home=None)
    assert (settings.host, settings.port, settings.seed) == ("0.0.0.0", 2, 3)


def test_sections_reach_the_parts_that_they_name(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("runnel.toml").write_text("[learn]\ncommit_seconds = 2.0\n[fold.stage.records]\nsequence = 50\n")
    monkeypatch.setenv("RUNNEL_SERVE__SELECT__EPSILON", "0.5")
    settings = load_settings()
    assert settings.learn_config().commit_seconds == 2.0
    assert settings.learn_config().stage.records.sequence == settings.fold.stage.records.sequence == 50
    assert settings.service_config().select.epsilon == 0.5


def test_another_file_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.toml").write_text("port = 4000\n")
    monkeypatch.setenv("RUNNEL_CONFIG", "other.toml")
    assert load_settings().port == 4000


@pytest.mark.parametrize(
    ("file", "variables", "flags", "message"),
    [
        ("", {"RUNNEL_PORT": "eighty"}, {}, r"port = 'eighty' \(RUNNEL_PORT\)"),
        ("", {}, {"port": 70_000}, r"port = 70000 \(--port\)"),
        ("port = -1", {}, {}, r"port = -1 \(runnel\.toml\)"),
        ("colour = 1", {}, {}, r"unknown setting colour = 1 \(runnel\.toml\)"),
        ("", {"RUNNEL_COLOUR": "1"}, {}, r"unknown setting RUNNEL_COLOUR"),
        ("[kafka.producer]\nlinger = 1", {}, {}, r"kafka: kafka\.producer\.linger: kafka-python has no setting"),
        ("[learn]\ncommit_second = 1", {}, {}, r"unknown setting learn\.commit_second = 1 \(runnel\.toml\)"),
        (
            "",
            {"RUNNEL_FOLD__STAGE__MAX_EVENTS": "x"},
            {},
            r"fold\.stage\.max_events = 'x' \(RUNNEL_FOLD__STAGE__MAX_EV",
        ),
        ('catalogue = "ajar"', {}, {}, r"catalogue = 'ajar' \(runnel\.toml\): Input should be 'open' or 'closed'"),
        (
            "[learn.stage.rebuild]\nmin_tests = 2000",
            {},
            {},
            r"learn\.stage: rebuild\.min_tests = 2000 must be below prequential\.window = 2000.* \(runnel\.toml\)",
        ),
        ("port = = 1", {}, {}, r"runnel\.toml: not TOML"),
        ("", {"RUNNEL_CONFIG": "absent.toml"}, {}, r"RUNNEL_CONFIG = 'absent\.toml': no such file"),
    ],
)
def test_a_wrong_setting_is_told_with_key_value_and_source(
    file: str, variables: dict[str, str], flags: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if file:
        Path("runnel.toml").write_text(file)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CommandError, match=message):
        load_settings(**flags)


def test_kafka_is_named_by_a_flag_and_told_the_rest_by_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("runnel.toml").write_text(
        '[kafka]\nservers = "a:1"\nsecurity = "SASL_SSL"\nusername = "me"\n[kafka.consumer]\nfetch_max_wait_ms = 10\n'
    )
    monkeypatch.setenv("RUNNEL_KAFKA__PASSWORD", "s3cret")
    monkeypatch.setenv("RUNNEL_KAFKA", '{"producer": {"linger_ms": 5, "compression_type": "gzip"}}')
    settings = load_settings(servers="b:2")
    assert "s3cret" not in repr(settings)
    kafka = settings.service_config().kafka
    assert kafka.client_settings()["bootstrap_servers"] == "b:2"
    assert kafka.client_settings()["sasl_plain_password"] == "s3cret"
    assert (kafka.consumer, kafka.producer["linger_ms"]) == ({"fetch_max_wait_ms": 10}, 5)
