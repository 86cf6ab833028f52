# All metric instruments of a replica, made once and handed to who uses them.
from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest

from models.base import Model
from serving.home_metrics import HomeMetrics
from serving.proxy_metrics import ProxyMetrics
from state.home import Home
from state.slots import FRESH_SECONDS, Slot

_SECONDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


class ServingMetrics:
    """Prometheus instruments on a registry of their own.

    With a slot, taken before this is made, `exposition` tells of all processes of the home that have one. `facts` and
    `proxy` are asked at each exposition.
    """

    def __init__(
        self, slot: Slot | None = None, facts: HomeMetrics | None = None, proxy: ProxyMetrics | None = None
    ) -> None:
        self._slot, self._facts, self._proxy = slot, facts, proxy
        self._version = self._learned = self._event_time = 0  # of the last one taken over
        self.registry = CollectorRegistry()
        self.step_seconds = Histogram(
            "runnel_step_seconds",
            "Time of one step of the request path",
            ["step"],
            registry=self.registry,
            buckets=_SECONDS,
        )
        self.request_seconds = Histogram(
            "runnel_request_seconds", "Time of one request, by call", ["call"], registry=self.registry, buckets=_SECONDS
        )
        self.requests = Counter(
            "runnel_requests",
            "Calls answered, by status and by route (empty: refused before a route was looked for, or there is none)",
            ["route", "status"],
            registry=self.registry,
        )
        self.events = Counter(
            "runnel_http_events", "Events sent over HTTP, by what became of them", ["status"], registry=self.registry
        )
        self.slate_items = Counter("runnel_slate_items", "Items served, by source", ["source"], registry=self.registry)
        self.fallbacks = Counter(
            "runnel_fallbacks", "Requests that a fallback answered, by which", ["to"], registry=self.registry
        )
        self.model_errors = Counter(
            "runnel_model_errors",
            "Requests in which a model failed and others stood in, by step",
            ["step"],
            registry=self.registry,
        )
        self.stage_up = Gauge(
            "runnel_stage_up",
            "Whether a stage of this home runs",
            ["stage"],
            registry=self.registry,
            multiprocess_mode="mostrecent",
        )
        self.shed = Counter(
            "runnel_shed",
            "Calls told to come back, by what was full: slates, batches, others, bytes, lag",
            ["reason"],
            registry=self.registry,
        )
        self.slates_dropped = Counter("runnel_slates_dropped", "Slates not written to the log", registry=self.registry)
        self.refresh_seconds = Histogram(
            "runnel_refresh_seconds", "Time to take over new versions", registry=self.registry, buckets=_SECONDS
        )
        self.refresh_errors = Counter("runnel_refresh_errors", "Failed looks for a new version", registry=self.registry)
        self.model_version = Gauge("runnel_model_version", "Version that answers", registry=self.registry)
        self.model_event_time = Gauge(
            "runnel_model_event_time_seconds", "Newest event the version has learned", registry=self.registry
        )
        self.to_recommendation = Histogram(
            "runnel_event_to_recommendation_seconds",
            "From the log's stamp of an event until a request finds it (session), or a version that learned it (model)",
            ["path"],
            registry=self.registry,
            buckets=FRESH_SECONDS,
        )
        self.scrape_seconds = Gauge(
            "runnel_scrape_seconds",
            "What the last exposition took",
            registry=self.registry,
            multiprocess_mode="mostrecent",
        )

    def took_over(self, home: Home[Model]) -> None:
        """The view stands at another version of the stages' output."""
        if home.version == self._version:
            return
        learned = sum(home.learned_offsets.values())
        if self._facts is not None and self._version and learned > self._learned:  # not the first of a process
            seconds = self._facts.seconds_since(self._learned)
            if seconds is not None:
                self.to_recommendation.labels("model").observe(seconds)
        self._version, self._learned, self._event_time = home.version, learned, home.event_time
        self._tell_version()

    def _tell_version(self) -> None:
        self.model_version.set(self._version)
        self.model_event_time.set(self._event_time / 1000)

    def keep(self) -> None:
        """See that the slot is there, every few seconds."""
        if self._slot is not None and self._slot.keep():
            self._tell_version()

    def exposition(self) -> bytes:
        """All there is to tell, in Prometheus' text format."""
        start = perf_counter()
        self.keep()
        told = generate_latest(self)
        self.scrape_seconds.set(perf_counter() - start)
        return told

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client asks its registries."""
        yield from self.registry.collect() if self._slot is None else self._slot.read()
        for asked in (self._facts, self._proxy):
            if asked is not None:
                yield from asked.collect()
