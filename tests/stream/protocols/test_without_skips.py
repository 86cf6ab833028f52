# A model that never hears of skips is what it would be had there been none.
from __future__ import annotations

import dataclasses

import numpy as np

from models.base import PAD, Batch, Query
from models.registry import build_models
from stream.protocols.without_skips import SUFFIX, build_pairs


def stream(seed: int) -> list[Batch]:
    """Batches of four users' looks at 30 items, which the first two bring; about half of the others are skips."""
    rng, batches = np.random.default_rng(seed), []
    for number in range(20):
        items, labels = rng.integers(30, size=(16, 6)), rng.integers(2, size=(16, 6)).astype(np.float32)
        if number < 2:
            items[:] = PAD
        query = Query(
            items=items,
            signals=np.where(labels > 0, 1, 2).astype(np.uint8),
            labels=labels,
            at=np.tile(np.arange(6), (16, 1)),
            in_session=np.ones(items.shape, np.bool_),
            now=np.full(16, 10),
            users=np.array([b"u%d" % user for user in rng.integers(4, size=16)], object),
        )
        targets, ones = rng.integers(30, size=16), np.ones(16, np.float32)
        if number < 2:
            batches.append(Batch(query, np.arange(16) + 14 * number, ones, ones))
        else:
            batches.append(Batch(query, targets, rng.integers(2, size=16).astype(np.float32), ones))
    return batches


def less_skips(batch: Batch) -> Batch:
    """The batch as it would be had nobody skipped, entry by entry."""
    rows = np.flatnonzero(batch.labels > 0)
    fields = {name: getattr(batch.query, name) for name in ("items", "signals", "labels", "at", "in_session")}
    fills = {"items": PAD}
    moved = {name: np.full_like(values[rows], fills.get(name, 0)) for name, values in fields.items()}
    for place, row in enumerate(rows):
        kept = [column for column in range(6) if batch.query.labels[row, column] > 0]
        for name, values in fields.items():
            moved[name][place, 6 - len(kept) :] = values[row, kept]
    assert batch.query.users is not None
    query = dataclasses.replace(batch.query, now=batch.query.now[rows], users=batch.query.users[rows], **moved)
    return Batch(query, batch.items[rows], batch.labels[rows], batch.weights[rows])


def test_it_learns_and_scores_as_if_nobody_had_skipped() -> None:
    names = ("covisitation", "conet", "item2vec", "transformer", "blend")
    pairs, alone = build_pairs(names, 3), build_models(names, 3)
    batches = stream(1)
    for batch in batches[:-1]:
        for model in pairs.values():
            model.learn(batch)
        for model in alone.values():
            model.learn(less_skips(batch))
    query = batches[-1].query
    everybody = dataclasses.replace(batches[-1], labels=np.ones(16, np.float32))
    for name in names:
        scores = pairs[name + SUFFIX].score(query)
        np.testing.assert_allclose(scores, alone[name].score(less_skips(everybody).query), rtol=1e-5, atol=1e-6)
        if name != "covisitation":
            assert not np.array_equal(scores, pairs[name].score(query))
