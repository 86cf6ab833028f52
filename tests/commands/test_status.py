# runnel status of homes where nothing runs: what the stores tell, and what went wrong lately.
from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from commands.errors import CommandError
from commands.read_status import read_status
from commands.settings import load_settings
from commands.status_tables import status_tables
from state.follower import LEARN, Follower, StoreSource
from state.meta import put_held
from state.signals import SignalTable
from state.store import Store
from tests.serving.helpers import Loop, open_loop, view


def status(home: Path) -> dict[str, object]:
    return read_status(load_settings(home=home))


def part(state: dict[str, object], *keys: str) -> object:
    value: object = state
    for key in keys:
        assert isinstance(value, dict)
        value = value[key]
    return value


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home that has learned 3 events, and has a fourth in its log."""
    with open_loop(tmp_path) as loop:
        loop.send(*(view("u", item) for item in "abc"))
        loop.settle()
        send_unfolded(loop)
        with loop.learn_store.write() as txn:
            put_held(txn, loop.learn_store, {"transformer": "3 rows not finite"})
    return tmp_path


def send_unfolded(loop: Loop) -> None:
    assert loop.send(view("u", "d")).status_code == 202


def test_the_stores_tell_versions_lags_and_holds_of_a_home_where_nothing_runs(home: Path) -> None:
    state = status(home)
    assert (state["running"], state["ready"], state["events_total"], state["model_version"]) == (False, False, 3, 1)
    assert part(state, "stages", "fold", "state") == "not running"
    assert part(state, "stages", "fold", "lag_messages") == 1
    assert part(state, "stages", "learn", "version") == 1
    assert part(state, "models", "transformer", "held") == "3 rows not finite"
    assert part(state, "models", "popularity", "held") is None
    assert part(state, "disk_bytes", "learn") != 0
    assert json.loads(json.dumps(state)) == state


def test_the_newest_wrongs_of_all_logs_are_told_in_order_and_other_lines_are_passed_over(home: Path) -> None:
    def line(at: int, level: str, message: str) -> str:
        return json.dumps({"at": f"2026-01-01T00:00:0{at}", "level": level, "process": "fold", "message": message})

    run = home / "run"
    run.mkdir(exist_ok=True)
    (run / "fold.log").write_text(
        "\n".join([line(1, "error", "first"), "no JSON", "[1]", line(3, "critical", "third")])
    )
    (run / "learn.log").write_text("\n".join([line(2, "warning", "second"), line(4, "info", "all is well"), "{"]))
    wrongs = status(home)["wrongs"]
    assert isinstance(wrongs, list)
    assert [wrong["message"] for wrong in wrongs] == ["first", "second", "third"]


def test_the_tables_name_stages_models_and_what_is_held(home: Path) -> None:
    told = StringIO()
    Console(file=told, width=160).print(status_tables(status(home)))
    for word in ("not running", "fold", "learn", "transformer", "3 rows not finite", "free"):
        assert word in told.getvalue()


def test_a_home_with_damaged_stores_is_told_of_without_them(home: Path) -> None:
    (home / "fold" / "data.mdb").write_bytes(b"no store")
    state = status(home)
    assert part(state, "stages", "fold", "version") is None
    assert part(state, "stages", "learn", "version") == 1


def test_an_empty_home_is_refused_and_nothing_is_made_in_it(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="nothing runs on"):
        status(tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_a_nodes_home_tells_the_versions_that_it_has_followed(
    home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    node = tmp_path_factory.mktemp("node")
    with (
        Store(node / "follow", "follow", writer=True) as store,
        Store(home / "fold") as fold,
        Store(home / "learn") as learn,
    ):
        follower = Follower(store, SignalTable(), folds=["fold"])
        for name, source in (("fold", fold), (LEARN, learn)):
            while follower.step(name, StoreSource(source), 0):
                pass
    state = status(node)
    assert (state["events_total"], state["model_version"]) == (3, 1)
    assert part(state, "stages") == {"follow": part(state, "stages", "follow")}
    assert part(state, "stages", "follow", "state") == "not running"
    assert part(state, "models", "popularity", "held") is None
    status_tables(state)
