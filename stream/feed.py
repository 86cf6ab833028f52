# What a fold process reads, and where it writes the few events of its own: the home's log, or Kafka.
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from stream.kafka_config import KafkaConfig
from stream.log import EventLog, LogSource
from stream.source import EventSource, SourceUnready
from stream.writer import Piece, Value

Write = Callable[[Sequence[Value], int], object]  # events and the time; returns when they are durable


class Feed(NamedTuple):
    """Both ends of one log."""

    source: EventSource
    write: Write


@contextmanager
def open_feed(home: Path, kafka: KafkaConfig, fold: int = 0, num_folds: int = 1) -> Iterator[Feed]:
    """The feed of a home; Kafka's where the settings name servers, of which a fold has its share. Raises SourceError,
    StoreError."""
    with _kafka_feed(kafka, fold, num_folds) if kafka.servers else _log_feed(home) as feed:
        yield feed


@contextmanager
def _log_feed(home: Path) -> Iterator[Feed]:
    log = EventLog(home / "log")
    try:
        yield Feed(LogSource(log), append_to(log))
    finally:
        log.close()


def append_to(log: EventLog) -> Write:
    """Events go to the end of a log."""
    return lambda values, now_ms: log.append([value.data for value in values], now_ms)


@contextmanager
def _kafka_feed(kafka: KafkaConfig, fold: int, num_folds: int) -> Iterator[Feed]:
    from stream.kafka_source import KafkaSource  # here, for a home with its own log does without
    from stream.kafka_writer import Producing

    source, producing = KafkaSource(kafka, fold, num_folds), Producing(kafka.writer_settings())

    def write(values: Sequence[Value], now_ms: int) -> None:
        outcome = producing.write([Piece(True, now_ms, list(values))])[0]
        if isinstance(outcome, str):
            raise SourceUnready(outcome)

    with closing(source), closing(producing):
        yield Feed(source, write)
