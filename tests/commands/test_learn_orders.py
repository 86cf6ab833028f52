# What a person tells the learner: to rebuild a model, to stop that, to let a held one learn again.
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from commands.errors import CommandError
from commands.learn import learn
from models.registry import build_models
from state.follower import StoreSource
from state.meta import get_held, get_rebuilds, get_version
from state.store import Store
from stream.guard import hold
from stream.learn import LearnStage
from tests.stream.helpers import NOW, fold, value, view


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose learner, which does not run, has learned popularity; its model is held."""
    monkeypatch.chdir(tmp_path)
    with (
        Store(tmp_path / "home" / "fold", "fold", writer=True) as folded,
        Store(tmp_path / "home" / "learn", "learn", writer=True) as learned,
    ):
        fold(folded, [value(view("u", "a"), view("u", "b", 1))])
        models = build_models(["popularity"])
        LearnStage(learned, {"f": StoreSource(folded)}, models, np.random.default_rng(0)).step(NOW)
        hold(learned, {"popularity": "2 rows not finite"}, NOW)
    return tmp_path / "home"


def test_a_hold_is_ended_by_name(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CommandError, match="model 'recent' is not held; held are popularity"):
        learn(home=home, release=["recent"])
    learn(home=home, release=["popularity"])
    assert capsys.readouterr().out == "released with version 3: popularity\n"
    with Store(home / "learn") as store, store.read() as txn:
        assert (get_held(txn, store), get_version(txn, store, "learn")) == ({}, 3)


def test_a_rebuild_is_ordered_and_stopped_by_name(home: Path) -> None:
    with pytest.raises(CommandError, match=r"no model 'resent' can be rebuilt; there are ai2v, .*recent"):
        learn(home=home, rebuild="resent")
    learn(home=home, rebuild="popularity")
    with Store(home / "learn") as store, store.read() as txn:
        assert get_rebuilds(txn, store) == {"popularity": "to begin when the learner runs"}
    learn(home=home, cancel="popularity")
    with pytest.raises(CommandError, match="'popularity' is not being rebuilt"):
        learn(home=home, cancel="popularity")
    with Store(home / "learn") as store, store.read() as txn:
        assert get_rebuilds(txn, store) == {}


def test_without_a_learn_store_the_home_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="there is no learn store; name another --home"):
        learn(home=tmp_path / "none", rebuild="popularity")
