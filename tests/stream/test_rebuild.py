# Rebuilding a model beside the served one: from stored records and live, until it is as good, and in one commit.
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from models.blend import Blend
from models.configured import Configs, WrongConfiguration
from models.popularity import Popularity
from models.registry import MODELS, build_models
from models.tables import RowTable
from models.transformer import Transformer
from state.dump import dump, dump_serving
from state.follower import Follower, StoreSource
from state.meta import canonical_config, get_config, get_configs, get_rebuilds, put_config
from state.signals import SignalTable
from state.store import Store, StoreConfigurationChanged
from state.view import View
from stream.learn import LearnConfig, LearnStage
from stream.prequential import PrequentialConfig
from stream.rebuild import ModelRebuilt, RebuildConfig, begin, cancel, open_models
from tests.models.examples import one_query
from tests.stream.helpers import NOW, JsonEvent, fold, value, view

NAMES = ("popularity", "covisitation", "transformer", "blend")
LONG: Configs = {"popularity": {"half_life_seconds": 1e6}}
NARROW: Configs = {"transformer": {"width": 16}}


class System:
    """A fold and a learn store, and a learner over them."""

    def __init__(
        self, path: Path, names: tuple[str, ...] = NAMES, min_tests: int = 40, configs: Configs | None = None
    ) -> None:
        self.path, self.names = path, names
        self.fold_store = Store(path / "fold", "fold", writer=True)
        self.learn_store = Store(path / "learn", "learn", writer=True)
        tests = PrequentialConfig(rows_per_batch=20, window=max(200, min_tests + 1))
        rebuild = RebuildConfig(examples_per_step=60, min_tests=min_tests)
        self.config = LearnConfig(batch_size=40, prequential=tests, rebuild=rebuild)
        self.values: list[bytes] = []
        self.num_events = 0
        self.open(configs or {})

    def open(self, configs: Configs) -> None:
        models = open_models(self.learn_store, self.names, 0, configs)
        folds, rng = {"fold-0": StoreSource(self.fold_store)}, np.random.default_rng(0)
        self.stage = LearnStage(self.learn_store, folds, models, rng, config=self.config)

    def send(self, num_events: int, num_items: int = 12) -> None:
        places = range(self.num_events, self.num_events + num_events)
        events: list[JsonEvent] = [
            view(f"u{at % 17}", f"i{(at * 7 + at // 30) % num_items}", at, event_id=f"e{at}") for at in places
        ]
        self.num_events += num_events
        self.values.append(value(*events))
        fold(self.fold_store, self.values)

    def learn(self, num_events: int = 100) -> None:
        self.send(num_events)
        self.stage.step(NOW)

    def rebuild(self, name: str, configs: Configs) -> None:
        """Until the new model is served, with events coming all the time."""
        begin(self.learn_store, name)
        self.open(configs)
        for _ in range(60):
            if self.learn_on(configs):
                return
        raise AssertionError(self.stage.rebuilds.progress(self.stage.prequential))

    def learn_on(self, configs: Configs) -> bool:
        """Learn what comes, and open the models anew if one was rebuilt: whether one was."""
        try:
            self.learn(80)
        except ModelRebuilt:
            self.open(configs)
            return True
        return False

    def close(self) -> None:
        self.fold_store.close()
        self.learn_store.close()


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    system = System(tmp_path)
    yield system
    system.close()


def test_a_changed_configuration_is_refused_until_a_rebuild_is_asked_for(system: System) -> None:
    system.learn()
    with pytest.raises(StoreConfigurationChanged, match=r"width 64 → 16.*runnel learn --rebuild transformer"):
        system.open(NARROW)
    begin(system.learn_store, "transformer")
    system.open(NARROW)
    served, following = system.stage.models["transformer"], system.stage.models["transformer.next"]
    assert isinstance(served, Transformer)
    assert isinstance(following, Transformer)
    assert (served.config.width, following.config.width) == (64, 16)


def test_the_new_model_takes_the_place_everywhere_without_a_restart(system: System, tmp_path: Path) -> None:
    for _ in range(4):
        system.learn()
    views = View(system.fold_store, system.learn_store, lambda configs: build_models(NAMES, 0, configs))
    views.refresh()
    with Store(tmp_path / "node", "follow", writer=True) as node:
        follower = Follower(node, SignalTable())
        follower.step("learn", StoreSource(system.learn_store), NOW)
        system.rebuild("transformer", NARROW)
        system.learn()
        follower.step("learn", StoreSource(system.learn_store), NOW, limit=10_000)
        with node.read() as theirs, system.learn_store.read() as own:
            assert dump_serving(theirs, node) == dump_serving(own, system.learn_store)
            assert get_config(theirs, node, "transformer") == get_config(own, system.learn_store, "transformer")
            assert not [name for name, *_ in dump_serving(own, system.learn_store) if ".next" in name]
        of_node = View(node, node, lambda configs: build_models(NAMES, 0, configs))
        for one in (views, of_node):
            one.refresh()
            with one.read() as home:
                transformer = home.models["transformer"]
                assert isinstance(transformer, Transformer)
                assert transformer.config.width == 16
                assert transformer.items.present.any()
                assert home.version == system.stage.version
            one.close()
    with system.learn_store.read() as txn:
        assert get_rebuilds(txn, system.learn_store) == {}
    assert "transformer.next" not in system.stage.models
    assert system.stage.rebuilds.progress(system.stage.prequential) == {}


@pytest.mark.parametrize("ahead", [0, 240_000])
def test_a_rebuilt_counter_has_counted_every_stored_and_every_live_event_once(tmp_path: Path, ahead: int) -> None:
    system = System(tmp_path, ("popularity",))
    for _ in range(4):
        system.learn()
    system.values.append(value(view("u5", "i1", ahead, event_id="of a clock that is ahead")))
    system.rebuild("popularity", LONG)
    rebuilt = system.stage.models["popularity"]
    assert isinstance(rebuilt, Popularity)
    assert rebuilt.config.half_life_seconds == 1e6
    with Store(tmp_path / "fresh", "learn", writer=True) as fresh:
        models, folds = build_models(["popularity"], 0, LONG), {"fold-0": StoreSource(system.fold_store)}
        LearnStage(fresh, folds, models, np.random.default_rng(0)).step(NOW)
        expected = models["popularity"].tables["counts"]
        assert isinstance(expected, RowTable)
        np.testing.assert_allclose(rebuilt.counts.values[:12], expected.values[:12], rtol=0, atol=1e-9)
    system.close()


def test_a_rebuild_that_is_stopped_anywhere_goes_on_to_the_same_model(tmp_path: Path) -> None:
    dumps = []
    for name, is_stopped in (("steady", False), ("stopped", True)):
        system = System(tmp_path / name, ("popularity", "covisitation"), min_tests=10**9)
        for _ in range(4):
            system.learn()
        begin(system.learn_store, "popularity")
        begin(system.learn_store, "covisitation")
        configs: Configs = {**LONG, "covisitation": {"window": 3}}
        system.open(configs)
        for _ in range(8):
            system.learn(60)
            if is_stopped:
                system.open(configs)
        with system.learn_store.read() as txn:
            parts = [f"rows:{model}/{table}" for model, table in (("popularity.next", "counts"),)]
            parts += ["cells:covisitation.next/cells", "rows:covisitation.next/takings"]
            dumps.append([list(txn.cursor(system.learn_store.db(part))) for part in parts])
        assert all(dumps[-1])
        system.close()
    assert dumps[0] == dumps[1]


def test_stored_records_are_learned_also_while_no_events_come(system: System) -> None:
    for _ in range(4):
        system.learn()
    begin(system.learn_store, "transformer")
    system.open(NARROW)
    told = []
    while system.stage.rebuilds.are_behind({}):
        assert system.stage.step(NOW).num_deltas == 0
        with system.learn_store.read() as txn:
            assert get_rebuilds(txn, system.learn_store) == system.stage.rebuilds.progress(system.stage.prequential)
        told.append(system.stage.rebuilds.progress(system.stage.prequential)["transformer"])
    assert len(told) > 3
    assert all(text.endswith("of the users learned") for text in told[:-1])
    assert told[-1].startswith("all users learned")
    version = system.stage.version
    assert system.stage.step(NOW).version == version  # and then nothing is committed any more


def test_a_new_model_that_is_worse_never_takes_the_place_and_can_be_cancelled(tmp_path: Path) -> None:
    system = System(tmp_path, ("popularity",))
    for _ in range(4):
        system.learn()
    before = dump(system.learn_store).keys()
    begin(system.learn_store, "popularity")
    hasty: Configs = {"popularity": {"half_life_seconds": 1e-3}}
    system.open(hasty)
    for _ in range(20):
        # ten favourites, and a rare item just before each of them: who believes the last event alone is always wrong
        at = system.num_events
        pairs = [(f"rare{(at + n) % 40}", f"i{n % 10}") for n in range(40)]
        items = [item for pair in pairs for item in pair]
        events = [view(f"w{at + n}", item, at + n, event_id=f"w{at + n}") for n, item in enumerate(items)]
        system.num_events += len(events)
        system.values.append(value(*events))
        fold(system.fold_store, system.values)
        system.stage.step(NOW)
    shown = system.stage.prequential
    assert min(tests for tests, _ in shown.sums.values()) > 40
    assert shown.hit_rates()["popularity.next"] < shown.hit_rates()["popularity"]
    assert "popularity.next" in system.stage.models
    with pytest.raises(ValueError, match="'transformer' is not being rebuilt"):
        cancel(system.learn_store, "transformer")
    cancel(system.learn_store, "popularity")
    system.open({})
    assert list(system.stage.models) == ["popularity"]
    assert dump(system.learn_store).keys() == before
    system.close()


def test_a_configuration_that_changes_during_a_rebuild_begins_it_again(system: System) -> None:
    for _ in range(3):
        system.learn()
    begin(system.learn_store, "transformer")
    system.open(NARROW)
    system.learn()
    system.open({"transformer": {"width": 32}})
    following = system.stage.models["transformer.next"]
    assert isinstance(following, Transformer)
    assert (following.config.width, following.num_items) == (32, 0)
    assert system.stage.rebuilds.progress(system.stage.prequential)["transformer"].startswith("0%")


def test_only_a_model_that_there_is_can_be_rebuilt_and_nothing_before_something_is_learned(system: System) -> None:
    with pytest.raises(ValueError, match="no model 'popularity' can be rebuilt; there are none before"):
        begin(system.learn_store, "popularity")
    system.learn()
    with pytest.raises(ValueError, match="no model 'x' can be rebuilt; there are ai2v, blend, conet, covisitation"):
        begin(system.learn_store, "x")


def test_models_join_a_running_store_and_its_blend_and_every_home_follows(tmp_path: Path) -> None:
    system = System(tmp_path, ("blend",), configs={"blend": {"others": []}})
    for _ in range(4):
        system.learn()
    views = View(system.fold_store, system.learn_store, lambda configs: build_models(MODELS, 0, configs))
    with Store(tmp_path / "node", "follow", writer=True) as node:
        follower = Follower(node, SignalTable())
        follower.step("learn", StoreSource(system.learn_store), NOW)
        for name in ("conet", "ai2v", "blend"):  # by default a blend mixes them
            begin(system.learn_store, name)
        system.open({})
        for _ in range(60):
            system.learn_on({})
            views.refresh()
            with views.read() as home:
                assert np.isfinite(home.models["blend"].score(one_query([1], [1.0]))).any()
            if not system.stage.rebuilds.progress(system.stage.prequential):
                break
        follower.step("learn", StoreSource(system.learn_store), NOW, limit=10_000)
        with node.read() as theirs, system.learn_store.read() as own:
            assert dump_serving(theirs, node) == dump_serving(own, system.learn_store)
            assert get_configs(theirs, node) == get_configs(own, system.learn_store)
    with views.read() as home:
        blend = home.models["blend"]
        assert isinstance(blend, Blend)
        assert [(part.name, part.num_items) for part in blend.parts.others] == [("conet", 12), ("ai2v", 12)]
        assert blend.weights[:, -2:].any(axis=0).all()
    views.close()
    system.close()


def test_a_model_of_a_form_that_this_version_does_not_know_begins_anew(system: System) -> None:
    system.learn()
    with system.learn_store.write() as txn:  # as an earlier version said
        config = get_configs(txn, system.learn_store)["transformer"]
        put_config(txn, system.learn_store, "transformer", canonical_config({**config, "form": 1}))
    with pytest.raises(StoreConfigurationChanged, match=r"form 1 → 2.*runnel learn --rebuild transformer"):
        system.open({})
    system.rebuild("transformer", {})
    transformer = system.stage.models["transformer"]
    assert isinstance(transformer, Transformer)
    assert transformer.items.present.any()


def test_a_home_names_the_model_that_it_cannot_load(system: System) -> None:
    system.learn()
    with system.learn_store.write() as txn:
        put_config(txn, system.learn_store, "transformer", canonical_config({"width": 32}))
    views = View(system.fold_store, system.learn_store, lambda configs: build_models(NAMES, 0, configs))
    with pytest.raises(StoreConfigurationChanged, match=r"'transformer' is of a form .*--rebuild transformer"):
        views.refresh()
    views.close()


@pytest.mark.parametrize(
    ("configs", "text"),
    [
        ({"transformer": {"widht": 3}}, "model 'transformer' has no setting 'widht'; it has .*width"),
        ({"transformer": {"width": "wide"}}, "model 'transformer': width = 'wide' is not of type int"),
        ({"transformer": {"width": 1.5}}, "model 'transformer': width = 1.5 is not of type int"),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(configs: Configs, text: str) -> None:
    with pytest.raises(WrongConfiguration, match=text):
        build_models(["transformer"], 0, configs)
