# What a source has lost before it was read: noted in the fold's store, until a person accepts it.
from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from state.offsets import get_offsets, put_offsets
from state.store import Store, Txn
from stream.source import SourceLost

if TYPE_CHECKING:
    from stream.kafka_source import KafkaSource

_IDENTITY, _LOST, _WHY = "sources", "lost", "lost_why"  # in `meta`: name → id; partition → where to go on; a text
_CURE = "Accept that it is lost (`runnel fold --accept-loss`), or begin a new home"


def check_identity(txn: Txn, store: Store, identity: Mapping[str, str]) -> None:
    """Raise SourceLost where a log is another than the one whose offsets are stored; note those that are new."""
    known = store.get_meta(txn, _IDENTITY, dict[str, str]) or {}
    for name, found in identity.items():
        if known.get(name, found) != found:
            what = f"{name} is not the topic that store {store.path} has read ({known[name]}, now {found})"
            raise SourceLost(f"{what}: it was deleted and made again. {_CURE}")
    if identity.keys() - known.keys():
        store.put_meta(txn, _IDENTITY, {**known, **identity})


def copy_identity(txn: Txn, store: Store, reading: Txn, source: Store) -> None:
    """Have a store know the logs that another has read. Raises SourceLost for a loss that nobody has accepted."""
    require_nothing_lost(reading, source)
    known = store.get_meta(txn, _IDENTITY, dict[str, str]) or {}
    store.put_meta(txn, _IDENTITY, known | (source.get_meta(reading, _IDENTITY, dict[str, str]) or {}))


def require_nothing_lost(txn: Txn, store: Store) -> None:
    """Raise SourceLost where a loss was found that nobody has accepted: that the log has grown past the gap since does
    not bring back what was in it."""
    if store.get_meta(txn, _LOST, dict[str, int]):
        raise SourceLost(f"{store.get_meta(txn, _WHY, str)}. {_CURE}")


def note_loss(store: Store, lost: SourceLost) -> None:
    """Have every later session stop at `require_nothing_lost`; of several losses of a partition the first counts."""
    with store.write() as txn:
        known = store.get_meta(txn, _LOST, dict[str, int]) or {}
        if lost.go_on_at.keys() - known.keys():
            store.put_meta(txn, _LOST, lost.go_on_at | known)
            store.put_meta(txn, _WHY, str(lost))


def accept_loss(store: Store, source: KafkaSource) -> dict[str, tuple[int, int]]:
    """Move the offsets of a fold store (opened to write) that its topics do not hold; partition → (before, now).

    Where messages were deleted it goes on with the oldest that is held; where a topic was cut back, where that ended
    when it was found out, so that what came since is read; where another topic was made in its place, at its begin.
    """
    moved: dict[str, tuple[int, int]] = {}
    with store.write() as txn:
        known = store.get_meta(txn, _IDENTITY, dict[str, str]) or {}
        remade = {name for name, found in source.identity().items() if known.get(name, found) != found}
        noted = store.get_meta(txn, _LOST, dict[str, int]) or {}
        for partition, offset in get_offsets(txn, store).items():
            if partition not in source.partitions():
                continue
            begin, end = source.bounds(partition)
            wanted = begin if partition.rpartition("-")[0] in remade else noted.get(partition, offset)
            now = min(max(wanted, begin), end)
            if now != offset:
                moved[partition] = offset, now
        put_offsets(txn, store, {partition: now for partition, (_, now) in moved.items()})
        store.put_meta(txn, _IDENTITY, {**known, **source.identity()})
        store.put_meta(txn, _LOST, {})
    return moved
