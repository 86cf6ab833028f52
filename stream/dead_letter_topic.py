# Dead letters on their way to their topic: each at least once, from a position that stands in the fold's own store.
from __future__ import annotations

import logging
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from threading import Thread

import msgspec

from state.store import Store, Txn
from stream.dead_letters import DeadLetter, dead_letters_from
from stream.kafka_config import KafkaConfig
from stream.writer import Outcome, Piece, Value

_NEXT = "dead_letters_published"  # in `meta`: number of the next dead letter to publish
_BATCH_LETTERS = 1_000
_BATCH_BYTES = 4 << 20
_MAX_BYTES = 900_000  # of a message; brokers take 1,048,588 unless told otherwise
_SURE_BYTES, _SURE_REASON = 100_000, 10_000  # of an event and characters of a reason: JSON makes at most six of each
_RETRY_SECONDS = 5.0
_CLOSE_SECONDS = 2.0
_log = logging.getLogger(__name__)

Publish = Callable[[list[Value]], Outcome]  # returns once the brokers have answered for all
Look = Callable[[float], None]


class DeadLetterTopic:
    """Publishes the dead letters of a fold store, in the order of their numbers.

    A batch is produced by a thread, so that the stage never waits for brokers. The position is committed once they have
    acknowledged all of the batch: whatever is killed before that, the batch is sent again. So each letter is published
    at least once, and a reader knows a repeat by its identity. What the bounds of the store drop first is not
    published; the log tells how many those were.
    """

    def __init__(self, store: Store, publish: Publish) -> None:
        self._store, self._publish = store, publish
        self._batch: _Batch | None = None
        self._again_at = 0.0
        with store.read() as txn:
            self._next = next_to_publish(txn, store)

    def look(self, now: float) -> None:
        """Note what was acknowledged, and begin to send what came since; returns at once. `now`: seconds of a clock
        that only grows."""
        if self._batch is not None:
            if self._batch.is_alive():
                return
            self._settle(self._batch, now)
        if now >= self._again_at:
            self._begin()

    def close(self) -> None:
        """Wait a moment for the batch under way; what is not acknowledged then is sent again by the next session."""
        if self._batch is not None:
            self._batch.join(_CLOSE_SECONDS)
            if not self._batch.is_alive():
                self._settle(self._batch, 0.0)

    def _begin(self) -> None:
        with self._store.read() as txn:
            letters = list(_batch_of(txn, self._store, self._next))
        if not letters:
            return
        first, following = letters[0][0], letters[-1][0] + 1
        if first > self._next:
            _log.warning("%d dead letters were dropped before they could be published", first - self._next)
        values = [Value(encode_letter(letter), letter.identity) for _, letter in letters]
        self._batch = _Batch(self._publish, values, following)
        self._batch.start()

    def _settle(self, batch: _Batch, now: float) -> None:
        self._batch = None
        if isinstance(batch.outcome, str):
            self._again_at = now + _RETRY_SECONDS
            _log.warning("dead letters wait to be published: %s", batch.outcome)
            return
        with self._store.write() as txn:
            self._store.put_meta(txn, _NEXT, batch.following)
        self._next = batch.following


class _Batch(Thread):
    """Letters on their way; a thread, for brokers may take long to answer, or never."""

    def __init__(self, publish: Publish, values: list[Value], following: int) -> None:
        super().__init__(name="dead letters", daemon=True)
        self._publish, self._values, self.following = publish, values, following
        self.outcome: Outcome = "no answer"

    def run(self) -> None:
        """Until the brokers have answered."""
        self.outcome = self._publish(self._values)


@contextmanager
def publishing(store: Store, kafka: KafkaConfig) -> Iterator[Look]:
    """What a fold's loop calls between two steps, with the time; it does nothing where no Kafka is set."""
    if not kafka.servers:
        yield lambda _: None
        return
    from stream.kafka_writer import Producing  # here, for a home with its own log does without

    settings = kafka.writer_settings()
    producing = Producing(msgspec.structs.replace(settings, events_topic=kafka.topics.dead_letters))
    topic = DeadLetterTopic(store, lambda values: producing.write([Piece(True, 0, values)])[0])
    with closing(producing), closing(topic):
        yield topic.look


def next_to_publish(txn: Txn, store: Store) -> int:
    """The number of the first dead letter that the brokers have not acknowledged; where none ever was, of the oldest
    that is kept."""
    known = store.get_meta(txn, _NEXT, int)
    return known if known is not None else next((number for number, _ in dead_letters_from(txn, store)), 0)


def encode_letter(letter: DeadLetter) -> bytes:
    """A dead letter as its topic has it, JSON that docs/kafka.md describes; cut where a broker might not take it."""
    data = _encode(letter)
    if len(data) <= _MAX_BYTES:
        return data
    short = {"reason": letter.reason[:_SURE_REASON], "raw": letter.raw[:_SURE_BYTES], "is_cut": True}
    return _encode(msgspec.structs.replace(letter, **short))


def _encode(letter: DeadLetter) -> bytes:
    topic, _, partition = letter.partition.rpartition("-")
    headers = [{"name": name, **_told("value", value)} for name, value in letter.headers]
    return msgspec.json.encode(
        {
            "id": letter.identity,
            "stage": "fold",
            "topic": topic,
            "partition": int(partition),
            "offset": letter.offset,
            "index": letter.index,
            "received_at": letter.received_at,
            "field": letter.field,
            "reason": letter.reason,
            **_told("key", letter.key),
            **_told("event", letter.raw),
            "is_cut": letter.is_cut,
            "headers": headers,
        }
    )


def _told(name: str, data: bytes | None) -> dict[str, str | None]:
    """As text where it is UTF-8, else in base64 and so named."""
    try:
        return {name: None if data is None else data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": b64encode(data or b"").decode()}


def _batch_of(txn: Txn, store: Store, number: int) -> Iterator[tuple[int, DeadLetter]]:
    room = _BATCH_BYTES
    for place, (found, letter) in enumerate(dead_letters_from(txn, store, number)):
        if place == _BATCH_LETTERS or room <= 0:
            return
        room -= len(letter.raw)
        yield found, letter
