# A person's decision that messages which Kafka no longer holds are lost: the fold goes on with what is there.
from __future__ import annotations

from state.offsets import get_offsets, put_offsets
from state.store import Store
from stream.fold import adopt_identity
from stream.kafka_source import KafkaSource


def accept_loss(store: Store, source: KafkaSource) -> dict[str, tuple[int, int]]:
    """Move the offsets of a fold store (opened to write) that its topics do not hold; partition → (before, now).

    Where messages were deleted it goes on with the oldest that is held, where a topic was cut back with the next one
    that comes, and where another topic was made in its place from its begin on.
    """
    moved: dict[str, tuple[int, int]] = {}
    with store.write() as txn:
        remade = adopt_identity(txn, store, source.identity())
        offsets = get_offsets(txn, store)
        for partition in source.partitions():
            offset = offsets.get(partition, 0)
            begin, end = source.bounds(partition)
            now = begin if partition.rpartition("-")[0] in remade else min(max(offset, begin), end)
            if offset and now != offset:
                moved[partition] = offset, now
        put_offsets(txn, store, {partition: now for partition, (_, now) in moved.items()})
    return moved
