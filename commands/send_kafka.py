# Sends a stream of events straight to Kafka, keyed by user and by item, as the API does.
from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from time import monotonic

import msgspec

from commands.api import RetryConfig, Sent
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
    """Send all events, each user's of a batch as one message; shows a progress bar. What the brokers do not take is
    sent again; CommandError when the patience ends."""
    producing = Producing(kafka.writer_settings())

    async def post(batch: Sequence[bytes]) -> Sent:
        values, deadline = list(_values(batch)), monotonic() + RetryConfig().patience
        while isinstance(outcome := (await asyncio.to_thread(producing.write, [Piece(True, 0, values)]))[0], str):
            if monotonic() > deadline:
                raise CommandError(f"Kafka at {kafka.servers}: {outcome}")
            await asyncio.sleep(RetryConfig().first_wait)
        return Sent(accepted=len(batch), offsets=outcome)

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
