# Whence the learner has the deltas of folds: the one fold store of its home, or Kafka's topics.
from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from state.deltas import DeltaGap
from state.follower import DeltaSource, StoreSource
from state.store import Store, StoreConfigurationChanged, StoreMissing
from stream.amend import go_on_behind
from stream.kafka_config import KafkaConfig
from stream.sessions import IsOver, pause
from stream.shipped import fold_keys, fold_name
from stream.source import SourceLost

if TYPE_CHECKING:
    from stream.delta_topics import DeltaTopics

_SLICE_SECONDS = 0.05  # within which a stop is heeded


class Folds(Protocol):
    """The folds that a learner reads, by the names it knows them by."""

    @property
    def sources(self) -> Mapping[str, DeltaSource]:
        """Their deltas."""
        ...

    @property
    def is_outdated(self) -> bool:
        """Whether they are to be opened anew."""
        ...

    def require(self, learned: Mapping[str, int]) -> None:
        """Raise where they do not hold what was learned, by name up to a version: they are not those it came from."""
        ...

    def wait(self, is_over: IsOver, seconds: float) -> None:
        """Let this time pass, or until it is over; take what comes meanwhile."""
        ...


@contextmanager
def open_folds(home: Path, kafka: KafkaConfig, num_folds: int, is_over: IsOver) -> Iterator[Folds | None]:
    """The folds of a home, once its fold process has made its store, or of topics; None when it is over before. A gap
    in topics is raised as SourceLost."""
    if kafka.has_delta_topics:
        from stream.delta_topics import DeltaTopics  # here, for a home with its own stores does without

        try:
            with closing(DeltaTopics(kafka, fold_keys(num_folds))) as topics:
                yield TopicFolds(topics)
        except DeltaGap as gap:
            raise SourceLost(f"{gap}. Go on without what is gone: `runnel learn --accept-loss`") from gap
        return
    store = _await_store(home / "fold", is_over)
    if store is None:
        yield None
        return
    with store:
        yield HomeFold(store)


class HomeFold:
    """The fold store beside the learn store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.sources: Mapping[str, DeltaSource] = {fold_name(0): StoreSource(store)}

    @property
    def is_outdated(self) -> bool:
        """As Folds says: the store was compacted."""
        return self._store.is_outdated

    def require(self, learned: Mapping[str, int]) -> None:
        """As Folds says. Raises StoreConfigurationChanged."""
        for name, source in self.sources.items():
            if (version := learned.get(name, 0)) > (folded := source.last()):
                raise StoreConfigurationChanged(
                    f"store {self._store.path} is at version {folded}, and {version} of it were learned: it is not the "
                    "one they came from. Put that one back, or restore both (`runnel up --from-snapshot DIR`)"
                )

    def wait(self, is_over: IsOver, seconds: float) -> None:
        """As Folds says."""
        pause(is_over, seconds)


class TopicFolds:
    """The partitions of the fold deltas' topic."""

    is_outdated = False

    def __init__(self, topics: DeltaTopics) -> None:
        self._topics = topics
        self.sources: Mapping[str, DeltaSource] = topics.sources

    def require(self, learned: Mapping[str, int]) -> None:
        """As Folds says. Raises SourceLost."""
        for name, source in self.sources.items():
            last = source.last()  # 0: it holds none, of a fold that had no events for long
            if last and (version := learned.get(name, 0)) > last:
                raise SourceLost(
                    f"Kafka holds the deltas of {name} up to {last}, and {version} of them were learned: its topic or "
                    "its store was put back. Put the store back that they came from"
                )

    def wait(self, is_over: IsOver, seconds: float) -> None:
        """As Folds says. Raises SourceUnready."""
        until = monotonic() + seconds
        while not is_over() and (left := until - monotonic()) > 0:
            self._topics.wait(min(left, _SLICE_SECONDS))


def _await_store(path: Path, is_over: IsOver) -> Store | None:
    while not is_over():
        try:
            return Store(path, "fold")
        except StoreMissing:
            pause(is_over, 0.05)
    return None


def accept_gap(store: Store, kafka: KafkaConfig, num_folds: int, now_ms: int) -> dict[str, tuple[int, int]]:
    """Have a learn store (opened to write) go on with the oldest deltas that topics hold, where those before are gone;
    fold → (its last version that was learned, the last that is passed over). Raises SourceUnready, SourceLost."""
    from stream.delta_places import PlaceFinder, partition_of  # here, as above

    with store.read() as txn:
        learned = store.get_meta(txn, "fold_versions", dict[str, int]) or {}
    passed: dict[str, tuple[int, int]] = {}
    for name in fold_keys(num_folds):
        with closing(PlaceFinder(kafka, partition_of(kafka, name))) as finder:
            first = finder.first()
        if first is not None and first.version > learned.get(name, 0) + 1:
            passed[name] = learned.get(name, 0), first.version - 1
    if passed:
        go_on_behind(store, learned | {name: version for name, (_, version) in passed.items()}, now_ms)
    return passed
