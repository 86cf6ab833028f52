# LOO-full: what is held out, what is ranked, and that chance gets what chance should.
from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from models.base import Query
from models.popularity import Popularity
from models.registry import MODELS
from stream.protocols.loo_full import LOO_FULL, HeldOut, ranks_in_all, read_held_out
from stream.protocols.metrics import counted
from stream.protocols.protocol import Trial
from stream.readers import DataError

# user, movie, stars, seq: user 7 in the order 30, 10, 20, 40, with 20 and 40 at one time
RATINGS = [(7, 10, 5, 2), (7, 20, 2, 3), (7, 30, 4, 1), (7, 40, 4, 3), (8, 10, 5, 1), (8, 50, 1, 2), (9, 30, 4, 1)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return written(tmp_path, RATINGS)


def written(folder: Path, ratings: list[tuple[int, int, int, int]]) -> Path:
    columns = dict(zip(("user", "movie", "rating", "seq"), map(pa.array, zip(*ratings, strict=True)), strict=True))
    (folder / "ml-1m").mkdir()
    table = pa.table({**columns, "file_row": pa.array(range(len(ratings)))})
    pq.write_table(table, folder / "ml-1m" / "ratings_ordered.parquet")
    return folder


def test_the_last_is_tested_and_the_one_before_is_history_alone(data: Path) -> None:
    held = read_held_out(data, 1, 1)
    assert held.users.tolist() == [0]  # the others have fewer than 3
    assert held.targets.tolist() == [3]  # movie 40: of one time, the later in the file
    assert held.train.items.tolist() == [2, 0, 0, 4, 2]
    assert held.before.items.tolist() == [2, 0, 1, 0, 4, 2]
    assert held.before.queries(held.users, 4).items.tolist() == [[-1, 2, 0, 1]]


def test_validation_holds_out_the_one_before_and_learns_from_the_same(data: Path) -> None:
    test, held = read_held_out(data, 1, 1), read_held_out(data, 1, 2)
    assert held.targets.tolist() == [1]
    assert held.before.items.tolist() == held.train.items.tolist() == test.train.items.tolist()


def test_liked_only_leaves_out_the_others(data: Path) -> None:
    held = read_held_out(data, 4, 1)
    assert held.train.num_items == 3
    assert held.targets.tolist() == [2]  # movie 40
    assert held.before.queries(held.users, 4).items.tolist() == [[-1, -1, 1, 0]]


class Fixed(Popularity):
    """Scores every item by what it is made with, whoever asks."""

    def __init__(self, scores: NDArray[np.float32]) -> None:
        super().__init__()
        self.scores = scores  # [Q, N], of the queries of one call

    def score(self, query: Query, items: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        assert items is None
        return self.scores[: len(query.now)]


def many(folder: Path) -> HeldOut:
    rng = np.random.default_rng(0)
    ratings = [(user, int(movie), 5, at) for user in range(20) for at, movie in enumerate(rng.permutation(100)[:30])]
    return read_held_out(written(folder, ratings), 1, 1)


def test_a_constant_score_ranks_in_the_middle_of_what_was_not_had(tmp_path: Path) -> None:
    held = many(tmp_path)
    ranks = ranks_in_all(Fixed(np.zeros((20, 100), np.float32)), held)
    np.testing.assert_array_equal(ranks, (71 + 1) / 2)  # 100 items less the 29 before
    assert counted(ranks, ("hr@10",))["hr@10"].sum() == 0


def test_what_was_had_before_is_not_ranked(tmp_path: Path) -> None:
    held = many(tmp_path)

    scores = np.zeros((20, 100), np.float32)
    scores[np.arange(20)[:, None], held.before.queries(held.users, 29).items] = 2.0
    scores[np.arange(20), held.targets] = 1.0
    np.testing.assert_array_equal(ranks_in_all(Fixed(scores), held), 1)


def test_it_runs_as_it_is_asked_for(data: Path) -> None:
    told: list[str] = []
    outcome = LOO_FULL.run(Trial(data, ("popularity", "item2vec", "ai2v", "transformer"), 0, told.append))
    assert outcome.num_events == 5
    assert set(outcome.models) == {"popularity", "item2vec", "ai2v", "transformer"} <= set(MODELS)
    assert all(found["hr@10"].shape == (1,) for found in outcome.models.values())
    assert sum("item2vec" in line for line in told) == 4
    assert any("transformer" in line for line in told)


def test_absent_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ratings_ordered\.parquet is not a file"):
        read_held_out(tmp_path, 1, 1)
