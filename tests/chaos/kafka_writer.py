# A writer of Kafka's topics as a process, as each replica is one: python -m tests.chaos.kafka_writer CONFIG NAME FILE
"""It sends single events, marked NAME-NUMBER, and writes the mark of each that the brokers have acknowledged as a line
of FILE, until SIGTERM. What they did not acknowledge is sent again under the same mark. CONFIG: servers and the two
topics.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from itertools import count
from pathlib import Path

from stream.kafka_config import ClientSettings, KafkaConfig, KafkaTopics
from stream.kafka_sink import KafkaSink
from stream.run import now_ms
from stream.sink import SinkError, Value
from tests.stream.helpers import random_events

CHUNK = 2_000  # events drawn at a time
GROUP = 10
PAUSE_SECONDS = 0.02
IMPATIENT: ClientSettings = {"delivery_timeout_ms": 3_000, "request_timeout_ms": 2_000, "max_block_ms": 3_000}


async def write(config: KafkaConfig, name: str, acknowledged: Path, stop: asyncio.Event) -> None:
    """Send groups of events, each until it is acknowledged or the writer is to stop."""
    sink = KafkaSink(config, now_ms)
    with acknowledged.open("a") as lines:
        for chunk in count():
            events = random_events(CHUNK, seed=[*name.encode(), chunk], num_users=50, num_items=300)
            for start in range(0, CHUNK, GROUP):
                marks = {f"{name}-{chunk * CHUNK + start + place}": events[start + place] for place in range(GROUP)}
                while not stop.is_set():
                    try:
                        await sink.append(*(_value(mark, event) for mark, event in marks.items()))
                        lines.write("".join(f"{mark}\n" for mark in marks))
                        lines.flush()
                        break
                    except SinkError:
                        if not sink.is_alive:
                            sink = KafkaSink(config, now_ms)
                if stop.is_set():
                    sink.close()
                    return
                await asyncio.sleep(PAUSE_SECONDS)


def _value(mark: str, event: dict[str, object]) -> Value:
    data = json.dumps({"mark": mark, **event}).encode()
    if str(event["type"]).startswith("item"):
        return Value(data, str(event["item_id"]), is_item=True)
    return Value(data, str(event["user_id"]))


async def main(servers: str, events: str, items: str, name: str, acknowledged: Path) -> None:
    """Write until told to stop."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await write(KafkaConfig(servers, KafkaTopics(events, items), producer=IMPATIENT), name, acknowledged, stop)


if __name__ == "__main__":
    told = sys.argv[1].split(",")
    asyncio.run(main(",".join(told[:-2]), told[-2], told[-1], sys.argv[2], Path(sys.argv[3])))
