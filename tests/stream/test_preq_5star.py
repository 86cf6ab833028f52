# PREQ-5★: which ratings are the stream, what is a test, and that a model cannot see what it is tested on.
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stream.protocols.preq_5star import PREQ_5STAR, five_stars
from stream.protocols.protocol import Trial
from stream.readers import DataError

START = 880_000_000  # of the set, about


def written(folder: Path, ratings: list[tuple[int, int, int, int]]) -> Path:
    (folder / "ml-100k").mkdir()
    lines = ("\t".join(map(str, rating)) for rating in ratings)
    (folder / "ml-100k" / "u.data").write_text("\n".join(lines) + "\n")
    return folder


def trial(data: Path, *models: str) -> Trial:
    return Trial(data, models, 0, lambda _: None)


def test_only_five_stars_are_the_stream_and_those_of_one_second_keep_their_order(tmp_path: Path) -> None:
    data = written(tmp_path, [(1, 10, 5, 900), (2, 20, 4, 901), (1, 30, 5, 900), (3, 40, 5, 800)])
    events = five_stars(data / "ml-100k" / "u.data")
    assert [b'"item_id":"%d"' % item in event.value for event, item in zip(events, (40, 10, 30), strict=True)] == [
        True
    ] * 3
    assert events[2].timestamp - events[1].timestamp == 1


def test_a_test_is_of_a_known_user_behind_the_first_fifth_and_a_new_item_is_a_miss(tmp_path: Path) -> None:
    likes = [(user, item, 5, START + 10 * item + user) for item in range(20) for user in range(1, 6)]
    outcome = PREQ_5STAR.run(trial(written(tmp_path, likes), "popularity"))
    ranks = outcome.models["popularity"]["recall@10"]
    assert outcome.num_events == 100
    assert len(ranks) == 80  # every user is known by then
    assert 0 < ranks.sum() < 80


def test_what_all_do_one_after_the_other_is_found_by_the_counter_of_sequences(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    likes = [
        (user, (start + step) % 50, 5, START + 1000 * user + step)
        for user in range(1, 120)
        for start in [int(rng.integers(50))]
        for step in range(8)
    ]
    found = PREQ_5STAR.run(trial(written(tmp_path, likes), "popularity", "covisitation")).models
    assert found["covisitation"]["recall@10"].mean() > 0.9 > 0.5 > found["popularity"]["recall@10"].mean()


def test_absent_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ml-100k"):
        PREQ_5STAR.run(trial(tmp_path, "popularity"))
