# Poisoned learning: a model that turns not finite is held at its last good version, and everything else goes on.
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest

from models.base import Model
from models.covisitation import Covisitation
from models.registry import MODELS, build_models
from models.tables import RowTable
from state.dump import dump, dump_serving
from state.follower import Follower, StoreSource
from state.meta import get_held, get_version
from state.signals import SIGNALS, SignalTable
from state.store import Store
from state.view import View
from stream.guard import ModelHeld, release
from stream.learn import LearnConfig, LearnResult, LearnStage
from stream.log import EventLog
from stream.run_learn import LearnRunConfig, learn_models
from tests.stream.helpers import NOW, JsonEvent, fold, value, view
from tests.stream.waiting import wait_until

Poison = Callable[[Model], None]


def nan_weights(model: Model) -> None:
    model.load_dense({name: np.full_like(weights, math.nan) for name, weights in model.dense().items()})


def infinite_moments(model: Model) -> None:
    state = model.training_state()
    model.load_training_state({**state, "adam_square": np.full_like(state["adam_square"], math.inf)})


def bad_rows(number: float) -> Poison:
    def spoil(model: Model) -> None:
        for table in model.tables.values():
            if isinstance(table, RowTable):
                rows = np.arange(table.size)
                table.load(rows, np.full((table.size, table.width), number, table.values.dtype))

    return spoil


def infinite_cells(model: Model) -> None:
    assert isinstance(model, Covisitation)
    for row in range(model.num_items):
        model.cells.load(row, np.arange(model.num_items), np.full(model.num_items, 1e300))


POISONS = [
    *[pytest.param(name, nan_weights, id=f"{name}: NaN weights") for name in ("transformer", "blend")],
    *[pytest.param(name, infinite_moments, id=f"{name}: infinite moments") for name in ("transformer", "blend")],
    *[
        pytest.param(name, bad_rows(math.nan), id=f"{name}: NaN rows")
        for name in ("transformer", "popularity", "recent", "trending", "covisitation")
    ],
    pytest.param("transformer", bad_rows(math.inf), id="transformer: infinite rows"),
    pytest.param("transformer", bad_rows(1e30), id="transformer: gradients that overflow"),
    pytest.param("popularity", bad_rows(math.inf), id="popularity: infinite counts"),
    pytest.param("covisitation", infinite_cells, id="covisitation: counts beyond float32"),
]


class System:
    """A fold and a learn store, and a learner that is opened anew when it says that it must be."""

    def __init__(self, path: Path, signals: SignalTable | None = None) -> None:
        self.signals = signals or SignalTable()
        self.fold_store, self.learn_store = (
            Store(path / "fold", "fold", writer=True),
            Store(path / "learn", "learn", writer=True),
        )
        self.values: list[bytes] = []
        self.open()

    def open(self) -> None:
        self.models = build_models(MODELS)
        folds, config = {"fold-0": StoreSource(self.fold_store)}, LearnConfig(batch_size=64)
        rng = np.random.default_rng(0)
        self.stage = LearnStage(self.learn_store, folds, self.models, rng, self.signals, config)

    def send(self, *events: JsonEvent) -> None:
        self.values.append(value(*events))
        fold(self.fold_store, self.values)

    def step(self) -> LearnResult:
        """One step, after as many holds as there are."""
        for _ in MODELS:
            try:
                return self.stage.step(NOW)
            except ModelHeld:
                self.open()
        raise AssertionError("every model was held and there is still something to hold")

    def served(self, name: str) -> list[tuple[str, str, bytes]]:
        """What the store serves of a model."""
        with self.learn_store.read() as txn:
            return [line for line in dump_serving(txn, self.learn_store) if line[0].split(":")[1].split("/")[0] == name]

    def held(self) -> dict[str, str]:
        with self.learn_store.read() as txn:
            return get_held(txn, self.learn_store)

    def close(self) -> None:
        self.fold_store.close()
        self.learn_store.close()


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    system = System(tmp_path)
    yield system
    system.close()


def clicks(start: int, num: int) -> list[JsonEvent]:
    return [view(f"u{at % 9}", f"i{(at * 7) % 12}", at) for at in range(start, start + num)]


def are_finite(served: list[tuple[str, str, bytes]]) -> bool:
    floats = [
        np.frombuffer(data, "<f8" if "counts" in table else "<f2") for table, _, data in served if "rows" in table
    ]
    return all(np.isfinite(row).all() for row in floats)


@pytest.mark.parametrize(("name", "poison"), POISONS)
def test_a_poisoned_model_is_held_at_its_last_good_version_and_the_others_go_on(
    system: System, tmp_path: Path, name: str, poison: Poison
) -> None:
    system.send(*clicks(0, 100))
    system.step()
    good = system.served(name)
    poison(system.models[name])
    system.send(*clicks(100, 100))
    result = system.step()
    assert result.num_examples == 100
    assert list(result.held) == list(system.held()) == [name]
    assert "not finite" in result.held[name] or "no finite gradient" in result.held[name]
    assert "version 1" in result.held[name]
    assert system.served(name) == good
    calm = System(tmp_path / "calm")
    for start in (0, 100):
        calm.send(*clicks(start, 100))
        calm.step()
    expected, found = dump(calm.learn_store), dump(system.learn_store)
    calm.close()
    assert {part for part in expected if expected[part] != found[part]} <= {
        part for part in expected if f":{name}/" in part
    }
    with system.learn_store.read() as txn:
        assert get_version(txn, system.learn_store, "learn") == 3  # the hold is a version too


def test_the_blend_goes_on_when_the_transformer_is_held_and_ranks_by_its_last_good_scores(system: System) -> None:
    system.send(*clicks(0, 100))
    system.step()
    nan_weights(system.models["transformer"])
    before = system.served("blend")
    for start in (100, 200, 300):
        system.send(*clicks(start, 100), view("new", f"new{start}", start))
        result = system.step()
        assert math.isfinite(result.losses["blend"])
        assert "transformer" not in result.losses
    assert system.served("blend") != before
    views = View(system.fold_store, system.learn_store, lambda _: build_models(MODELS))
    views.refresh()
    with views.read() as home:
        assert list(home.held) == ["transformer"]
        for model in home.models.values():
            for table in model.tables.values():
                if isinstance(table, RowTable):
                    assert not np.isnan(table.values[: table.size]).any()
    views.close()


def test_a_hold_survives_a_restart_until_it_is_released(system: System) -> None:
    system.send(*clicks(0, 100))
    system.step()
    nan_weights(system.models["transformer"])
    system.send(*clicks(100, 100))
    system.step()
    system.open()
    assert list(system.stage.held) == ["transformer"]
    system.send(*clicks(200, 100))
    assert "transformer" not in system.step().losses
    good = system.served("transformer")
    with pytest.raises(ValueError, match="'blend' is not held; held are transformer"):
        release(system.learn_store, ["blend"], NOW)
    release(system.learn_store, ["transformer"], NOW)
    system.open()
    system.send(*clicks(300, 100))
    result = system.step()
    assert result.held == {}
    assert math.isfinite(result.losses["transformer"])
    assert system.served("transformer") != good


def test_two_models_poisoned_in_one_step_are_both_held(system: System) -> None:
    system.send(*clicks(0, 100))
    system.step()
    nan_weights(system.models["transformer"])
    bad_rows(math.nan)(system.models["popularity"])
    system.send(*clicks(100, 100))
    assert sorted(system.step().held) == ["popularity", "transformer"]


def test_a_signal_so_heavy_that_sums_overflow_holds_the_models_that_take_them(tmp_path: Path) -> None:
    heavy = SignalTable(replace(signal, weight=3e38 if signal.name == "share" else signal.weight) for signal in SIGNALS)
    system = System(tmp_path, heavy)
    system.send(*clicks(0, 100))
    system.step()
    system.send(*[{**event, "type": "share"} for event in clicks(100, 100)])
    result = system.step()
    # popularity counts in logarithms, and the others that learn by gradients take shares of a step's weights
    assert sorted(result.held) == ["conet", "covisitation"]
    assert are_finite(system.served("transformer"))
    system.close()


def test_a_signal_whose_weight_is_no_number_is_refused_by_name() -> None:
    for weight in (math.nan, math.inf, -1.0, 1e39):
        with pytest.raises(ValueError, match="signal 'view': weight"):
            SignalTable([replace(SIGNALS[0], weight=weight)])


def test_a_follower_knows_what_is_held(system: System, tmp_path: Path) -> None:
    system.send(*clicks(0, 100))
    system.step()
    nan_weights(system.models["transformer"])
    system.send(*clicks(100, 100))
    system.step()
    with Store(tmp_path / "node", "follow", writer=True) as node:
        Follower(node, SignalTable()).step("learn", StoreSource(system.learn_store), 0)
        with node.read() as txn, system.learn_store.read() as own:
            assert get_held(txn, node) == system.held() != {}
            assert dump_serving(txn, node) == dump_serving(own, system.learn_store)


def test_a_model_that_never_learned_is_held_as_it_was_built(system: System) -> None:
    nan_weights(system.models["transformer"])
    system.send(*clicks(0, 100))
    result = system.step()
    assert list(result.held) == ["transformer"]
    assert system.models["transformer"].num_items == 0
    _check_finite(system.models)


def test_the_learn_process_holds_a_model_and_opens_all_of_them_anew_by_itself(tmp_path: Path) -> None:
    EventLog(tmp_path / "log").close()
    with Store(tmp_path / "fold", "fold", writer=True) as folded:
        fold(folded, [value(*clicks(0, 100))])
    built, stop = [], Event()

    def build(_: Store) -> Mapping[str, Model]:
        built.append(build_models(["popularity", "transformer"]))
        if len(built) == 1:
            nan_weights(built[0]["transformer"])
        return built[-1]

    learner = Thread(target=learn_models, args=(tmp_path, stop, build, 0, LearnRunConfig()), daemon=True)
    learner.start()
    wait_until(lambda: len(built) == 2)
    stop.set()
    learner.join(60)
    assert not learner.is_alive()
    with Store(tmp_path / "learn", "learn") as learned, learned.read() as txn:
        assert list(get_held(txn, learned)) == ["transformer"]


def _check_finite(models: Mapping[str, Model]) -> None:
    for model in models.values():
        assert all(np.isfinite(weights).all() for weights in model.dense().values())
