# What one replica can do, free of HTTP: takes events, recommends, tells of items, users and versions.
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from secrets import token_hex
from time import time

import msgspec

from models.base import Model
from models.configured import Configs
from serving.admission import AdmissionConfig
from serving.home_metrics import HomeMetrics
from serving.intake import Intake, IntakeConfig
from serving.keys import ApiKey
from serving.lookups import holds_entry, item_reply, user_reply
from serving.metrics import ServingMetrics
from serving.moment import Moment, Moments
from serving.pipeline import Each, Pipeline
from serving.problems import Problem, unavailable
from serving.proxy_metrics import ProxyMetrics
from serving.ray_environment import ADMIN_SOCKET, runtime_folder
from serving.schemas import (
    EventResult,
    EventsReply,
    ItemReply,
    ModelReply,
    ModelStanding,
    Readiness,
    RecommendationRequest,
    SimilarItemsReply,
    SimilarItemsRequest,
    SlateReply,
    UserReply,
)
from serving.similar import similar_items
from serving.stages import Stages
from serving.steps import filters, history, replies, scorers, selectors, sources
from serving.turns import Turns
from serving.versions import Versions, VersionsConfig
from state.offsets import LEARNED, get_offsets, get_totals
from state.signals import SignalTable
from state.slots import Slot
from state.view import View
from stream.event import EventDecoder, EventLimits
from stream.kafka_config import KafkaConfig
from stream.kafka_sink import KafkaSink
from stream.log import EventLog
from stream.log_sink import LogSink
from stream.sink import EventSink


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """One replica's settings."""

    home: Path
    stages: tuple[str, ...] = ("fold", "learn")  # those that this home should have
    models: tuple[str, ...] = ()  # those the learn stage trains; none named: all there are
    is_open: bool = True  # an item is known from its first event; otherwise from its upsert on
    seed: int = 0
    keys: tuple[ApiKey, ...] = ()  # none: whoever reaches the API may do everything
    admission: AdmissionConfig = field(default_factory=AdmissionConfig)
    intake: IntakeConfig = field(default_factory=IntakeConfig)
    kafka: KafkaConfig = field(default_factory=KafkaConfig)  # no servers: events go to the home's own log
    events: EventLimits = field(default_factory=EventLimits)
    history: history.HistoryConfig = field(default_factory=history.HistoryConfig)
    sources: sources.SourceConfig = field(default_factory=sources.SourceConfig)
    select: selectors.SelectConfig = field(default_factory=selectors.SelectConfig)
    versions: VersionsConfig = field(default_factory=VersionsConfig)


class Service:
    """Everything behind the calls. Stores and sink are given, so that a test may share them with a stage."""

    def __init__(
        self,
        config: ServiceConfig,
        view: View[Model],
        sink: EventSink,
        clock: Callable[[], int],
        signals: SignalTable,
        metrics: ServingMetrics | None = None,
    ) -> None:
        self.config, self.metrics, self.now = config, metrics or ServingMetrics(), clock
        self._sink, self._signals = sink, signals
        self._name, self._numbers = token_hex(8), count()  # of this replica, and of its requests
        self._decoder = EventDecoder(signals, config.events)
        self.intake = Intake(self._decoder, sink, self.metrics, config.intake)
        self.turns = Turns(lambda requests: self._answer(requests, self.now()))
        self._stages = Stages(config.home, config.stages, self.metrics)
        self.versions = Versions(view, self._stages, self.metrics, config.versions)
        self._pipeline = Pipeline(
            [
                Each(history.ReadRecord()),
                Each(history.FoldSession(self._decoder, signals, config.history)),
                Each(history.BuildQuery(signals, config.history)),
                sources.Sources(config.sources, self.metrics),
                Each(filters.Filter(config.is_open)),
                scorers.Score(self.metrics),
                Each(selectors.Select(config.select)),
                Each(replies.Respond(self.metrics)),
                Each(replies.LogSlate(sink, self.metrics)),
            ],
            self.metrics,
        )

    def check(self) -> None:
        """Raise RuntimeError where a part of this replica has ended that only a new replica brings back."""
        self.metrics.keep()
        if not self.versions.is_alive:
            raise RuntimeError("the thread that follows new versions has ended; the log tells why")
        if not self._sink.is_alive:
            raise RuntimeError("the process that writes events has ended; the log tells why")

    def readiness(self) -> Readiness:
        """What of this home runs, once a version can answer. Raises Problem 503 where this replica cannot serve."""
        try:
            self.check()
        except RuntimeError as error:
            raise unavailable(str(error)) from error
        with self.versions.read() as (_, home):
            version = home.version
        stages = self._stages.look()
        return Readiness("ready" if set(stages.values()) <= {"running"} else "degraded", version, stages)

    def close(self) -> None:
        """Stop following, and write what still waits to the log."""
        self.versions.close()
        self._sink.close()

    async def accept_events(self, raws: Sequence[bytes], now: int, may_delete: bool = True) -> EventsReply:
        """Judge events and append the good ones; returns when they are durable. Without `may_delete` those that delete
        a user or an item are rejected. Raises Problem."""
        results, offsets = await self._accept(raws, now, may_delete)
        reply = EventsReply(sum(result.status == "accepted" for result in results), results, offsets)
        if not self._sink.is_keyed:
            reply.offset = sum(offsets.values())
        return reply

    async def delete(self, event: dict[str, str], now: int) -> EventsReply:
        """Append the deletion of a user or an item. Raises Problem 422 naming the field."""
        raw = msgspec.json.encode({**event, "timestamp": now})
        reply = await self.accept_events([raw], now)
        result = reply.results[0]
        if result.status != "accepted":
            raise Problem(422, result.reason or "rejected", result.field or "")
        return reply

    async def _accept(
        self, raws: Sequence[bytes], now: int, may_delete: bool
    ) -> tuple[list[EventResult], dict[str, int]]:
        if not self.versions.is_ready:  # events are taken before anything is there to read
            results, values = await self.intake.judge(raws, now, lambda _: False, may_delete)
            return results, await self.intake.append(values)
        with self.versions.read() as (store, _), store.read() as txn:
            is_known = holds_entry(txn, store, self._signals)
            self.intake.check_lag(lambda: get_offsets(txn, store, "fold"))
            results, values = await self.intake.judge(raws, now, is_known, may_delete)
            if not values:  # what they repeat is in the record by now
                return results, get_offsets(txn, store, "fold")
        return results, await self.intake.append(values)

    def recommend(self, request: RecommendationRequest, now: int) -> SlateReply:
        """A slate for the user at this moment. Raises Problem."""
        outcome = self._answer([request], now)[0]
        if isinstance(outcome, Problem):
            raise outcome
        return outcome

    def _answer(self, requests: Sequence[RecommendationRequest], now: int) -> list[SlateReply | Problem]:
        """Slates of one version for requests that `Moments` hold together. Raises Problem where it is all of them's."""
        with self.versions.read() as (store, home):
            ids = (f"{self._name}{next(self._numbers):016x}" for _ in requests)
            moments = [Moment(request, store, home, now, next(ids)) for request in requests]
            self._pipeline.run(Moments(moments))
        outcomes = [moment.reply or moment.problem for moment in moments]
        found = [outcome for outcome in outcomes if outcome is not None]
        if len(found) < len(requests):
            raise RuntimeError("the last step of the request path left no reply")
        return found

    def similar(self, request: SimilarItemsRequest) -> SimilarItemsReply:
        """Items like one item. Raises Problem 404 for an item nobody has sent."""
        with self.versions.read() as (_, home):
            return similar_items(home, request)

    def item(self, item_id: str) -> ItemReply:
        """What is known of an item. Raises Problem 404."""
        with self.versions.read() as (store, home), store.read() as txn:
            return item_reply(txn, store, home, item_id)

    def user(self, user_id: str) -> UserReply:
        """A user's record. Raises Problem 404."""
        with self.versions.read() as (store, home), store.read() as txn:
            return user_reply(txn, store, home, self._signals, user_id)

    def model(self, now: int) -> ModelReply:
        """Which version answers and how far each stage has come. Raises Problem 503 before the first."""
        with self.versions.read() as (store, home), store.read() as txn:
            return ModelReply(
                home.version,
                replies.model_age_ms(home, now),
                home.event_time or None,
                get_offsets(txn, store, "fold"),
                dict(home.learned_offsets),
                sum(
                    count
                    for (kind, outcome), count in get_totals(txn, store).items()
                    if kind != "slate" and outcome != LEARNED
                ),
                {
                    name: ModelStanding(model.num_items, home.held.get(name, msgspec.UNSET))
                    for name, model in home.models.items()
                },
            )


def open_service(config: ServiceConfig, slot: Slot | None = None) -> Service:
    """The service of a home directory: its event log, and its stores as soon as the stages have made them.

    With this process's slot its /metrics tell of all processes of the home.
    """

    from models.registry import MODELS, build_models  # imports torch, which the process that starts Ray does without

    def clock() -> int:
        return int(time() * 1000)

    def build(configs: Configs) -> dict[str, Model]:
        return build_models(names, config.seed, {name: config for name, config in configs.items() if name in MODELS})

    names = config.models or tuple(MODELS)
    fold, learn = ("follow", "follow") if config.kafka.has_delta_topics else ("fold", "learn")
    view = View(config.home / fold, config.home / learn, build)
    log = None if config.kafka.servers else EventLog(config.home / "log")
    proxy = ProxyMetrics(runtime_folder(config.home) / ADMIN_SOCKET)
    metrics = ServingMetrics(slot, HomeMetrics(config.home, view, log, clock), proxy)
    sink: EventSink
    if log is None:
        sink = KafkaSink(config.kafka, clock, on_lost=metrics.slates_dropped.inc)
    else:
        sink = LogSink(log, clock, on_lost=metrics.slates_dropped.inc)
    return Service(config, view, sink, clock, SignalTable(), metrics)
