# forgetting on a made stream: who is withheld, what is scored, and that replay keeps what the day takes.
from __future__ import annotations

import json

import numpy as np
import pytest

import stream.protocols.forgetting as protocol
from models.base import Batch, Model
from stream.learn import LearnConfig
from stream.protocols.forgetting import HOUR_MS, Split, Stretch, in_cohort, log_losses, split
from stream.readers import ReadEvent

START_MS = 1_763_649_000_000


def click(user: str, item: int, at: int) -> ReadEvent:
    """A click in a session of its user's."""
    event = {"type": "click", "user_id": user, "item_id": f"i{item}", "timestamp": at, "session_id": user}
    return ReadEvent(at, json.dumps(event).encode())


def some(is_in: bool, num: int) -> list[str]:
    """Users in the cohort, or not."""
    return [user for user in map(str, range(200 * num)) if in_cohort(user) == is_in][:num]


def test_about_one_user_in_twenty_is_of_the_cohort() -> None:
    assert sum(in_cohort(str(user)) for user in range(20_000)) == pytest.approx(1000, rel=0.1)


def test_the_cohort_falls_silent_and_the_last_event_of_each_of_it_is_a_test() -> None:
    (own,), (other,) = some(True, 1), some(False, 1)
    hours: dict[str, list[float]] = {own: [0, 1, 2, 3, 4, 5], other: [0.5, 1.5, 3.5, 5.5]}
    events = sorted(click(user, 0, START_MS + round(hour * HOUR_MS)) for user, of in hours.items() for hour in of)
    parts = split(events, Stretch(1, 4, 5.2))
    kept = [((event.timestamp - START_MS) / HOUR_MS, json.loads(event.value)["user_id"]) for event in parts.events]
    assert kept == [(1, own), (1.5, other), (2, own), (3, own), (3.5, other)]
    assert parts.tests == {(own.encode(), START_MS + 3 * HOUR_MS)}
    assert parts.until_ms == START_MS + 4 * HOUR_MS


def walks(users: list[str], step: int, begin_ms: int, rng: np.random.Generator) -> list[ReadEvent]:
    """Six clicks of each user around a ring of 30 items, `step` further each time."""
    starts = rng.integers(30, size=len(users))
    return [
        click(user, int(start + step * place) % 30, begin_ms + 100_000 * place + number)
        for number, (user, start) in enumerate(zip(users, starts, strict=True))
        for place in range(6)
    ]


@pytest.fixture(scope="module")
def parts() -> Split:
    """The cohort and others go one way; then others alone go another."""
    rng = np.random.default_rng(0)
    cohort, others = some(True, 60), some(False, 500)
    first = walks(cohort + others[:60], 1, START_MS, rng)
    second = walks(others[60:], 7, START_MS + HOUR_MS, rng)
    return split(sorted(first + second), Stretch(0, 1, 2))


def test_what_others_do_next_raises_the_loss_less_with_replay(parts: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "BATCH_EVENTS", 16)  # what is replayed was committed: 32 batches are a commit
    names = ("transformer",)
    rises = {}
    for replay in (0.0, 1.0):
        config = LearnConfig(replay_ratio=replay, replay_weight=1.0)
        before, after = (losses["transformer"] for losses in log_losses(names, parts, 0, config))
        assert before.shape == after.shape == (60,)
        assert before.mean() < np.log(30)  # better than chance, of items that were never learned there
        rises[replay] = after.mean() / before.mean() - 1
    assert 0 < rises[1.0] < rises[0.0]


def test_a_test_is_never_learned_not_even_from_replay(parts: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    learned = set[tuple[bytes, int]]()

    class Seen(protocol.Withheld):
        def __init__(self, model: Model, tests: frozenset[tuple[bytes, int]]) -> None:
            super().__init__(model, tests)
            own = self.model.learn

            def learn(batch: Batch) -> float:
                assert batch.query.users is not None
                learned.update(zip(batch.query.users.tolist(), batch.query.now.tolist(), strict=True))
                return own(batch)

            monkeypatch.setattr(self.model, "learn", learn)

    monkeypatch.setattr(protocol, "Withheld", Seen)
    monkeypatch.setattr(protocol, "BATCH_EVENTS", 16)
    log_losses(("item2vec",), parts, 0, LearnConfig(replay_ratio=2.0))
    assert not learned & parts.tests
    assert len(learned) == len(parts.events) - len(parts.tests)


def test_a_model_with_rows_by_user_is_refused_by_name(parts: Split) -> None:
    with pytest.raises(ValueError, match="conet"):
        log_losses(("conet",), parts, 0, LearnConfig())
