# Sends a stream of events straight to Kafka, keyed by user and by item, as the API does.
from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from commands.api import Sent
from commands.errors import CommandError
from commands.send import SendConfig, TimedEvent, send_with
from stream.kafka_config import KafkaConfig
from stream.kafka_writer import Producing
from stream.writer import Piece, Value


class _Named(msgspec.Struct):
    user_id: str = ""
    item_id: str = ""


_decoder = msgspec.json.Decoder(_Named)


async def send_to_kafka(kafka: KafkaConfig, events: Iterable[TimedEvent], num_events: int, config: SendConfig) -> Sent:
    """Send all events, each user's of a batch as one message; shows a progress bar. Raises CommandError where the
    brokers do not take them."""
    producing = Producing(kafka.writer_settings())

    async def post(batch: Sequence[bytes]) -> Sent:
        outcome = (await asyncio.to_thread(producing.write, [Piece(True, 0, list(_values(batch)))]))[0]
        if isinstance(outcome, str):
            raise CommandError(f"Kafka at {kafka.servers}: {outcome}")
        return Sent(accepted=len(batch))

    try:
        return await send_with(post, events, num_events, config)
    finally:
        producing.close()


def _values(batch: Sequence[bytes]) -> Iterator[Value]:
    by_user: dict[str, list[bytes]] = {}
    for event in batch:
        named = _decoder.decode(event)
        if named.user_id:
            by_user.setdefault(named.user_id, []).append(event)
        else:  # a compacted topic keeps the last message of an item
            yield Value(event, named.item_id, is_item=True)
    for user, events in by_user.items():
        yield Value(b"[" + b",".join(events) + b"]", user)
