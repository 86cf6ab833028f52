# CN-99 and NCF-99 on made files of their format: what is read, how ties count, and what a report holds.
from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from models.base import PAD
from models.blend import Blend
from models.popularity import Popularity
from stream.fingerprint import fingerprint
from stream.protocols.evaluate import run_protocol
from stream.protocols.interactions import Interactions
from stream.protocols.metrics import counted, ranks_among
from stream.protocols.registry import PROTOCOLS
from stream.protocols.sampled import Files, read_sampled
from stream.protocols.training import Lessons, Training, trained
from stream.readers import DataError

FILES = Files("train.gz", "tests.gz", 3)


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("\n".join(lines).encode()))


def made(folder: Path) -> None:
    """Two users; the second one's interactions are out of order in the file."""
    write(folder / "train.gz", "1\t4\t5\t30", "0\t1\t5\t10", "1\t2\t3\t20", "0\t3\t4\t40")
    write(folder / "tests.gz", "(0,5)\t4\t6", "(1,0)\t3\t5")


def test_a_split_is_read_user_by_user_in_order(tmp_path: Path) -> None:
    made(tmp_path)
    split = read_sampled(tmp_path, FILES)
    assert list(zip(split.train.users.tolist(), split.train.items.tolist(), strict=True)) == [
        (0, 1),
        (0, 3),
        (1, 2),
        (1, 4),
    ]
    assert (split.train.num_users, split.train.num_items) == (2, 7)
    assert split.users.tolist() == [0, 1]
    assert split.candidates.tolist() == [[5, 4, 6], [0, 3, 5]]


@pytest.mark.parametrize(
    ("name", "lines", "told"),
    [
        ("train.gz", ["0 one 2 3"], "is not a table of numbers"),
        ("tests.gz", ["0,5 1 2"], None),
        ("tests.gz", ["(0;5) 1 2"], "is not `"),
        ("tests.gz", ["(0,5) 1 2", "(1,5) 1"], "unequal numbers of items"),
    ],
)
def test_a_file_of_another_format_is_named(tmp_path: Path, name: str, lines: list[str], told: str | None) -> None:
    made(tmp_path)
    write(tmp_path / name, *lines)
    if told is None:
        assert read_sampled(tmp_path, FILES).candidates.tolist() == [[5, 1, 2]]
        return
    with pytest.raises(DataError, match=told) as refused:
        read_sampled(tmp_path, FILES)
    assert name in str(refused.value)


def test_a_file_that_is_absent_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.gz is not a file"):
        read_sampled(tmp_path, FILES)


def some(is_ordered: bool) -> Interactions:
    users = np.repeat([0, 1, 2], [1, 4, 30])
    return Interactions(users, np.arange(35), 3, 35, is_ordered)


def test_an_epoch_holds_every_interaction_once_with_what_stands_before_it() -> None:
    batches = list(some(True).batches(np.random.default_rng(0), 8, max_entries=3))
    assert sorted(np.concatenate([batch.items for batch in batches]).tolist()) == list(range(35))
    for batch in batches:
        assert batch.query.users is not None
        for item, user, history in zip(batch.items, batch.query.users, batch.query.items, strict=True):
            first = {b"0": 0, b"1": 1, b"2": 5}[user]
            before = [n for n in range(item - 3, item) if n >= first]
            assert history.tolist() == [PAD] * (3 - len(before)) + before


def test_a_streamed_epoch_keeps_each_user_s_order_and_ends_with_every_user_s_last() -> None:
    orders = []
    for seed in (0, 1):
        batches = some(True).streamed(np.random.default_rng(seed), 8, max_entries=3)
        order = np.concatenate([batch.items for batch in batches]).tolist()
        assert sorted(order) == list(range(35))
        assert all([item for item in order if item in own] == list(own) for own in (range(1, 5), range(5, 35)))
        assert {4, 34} <= set(order[-9:])  # user 1's in the last quarter, where a thirtieth holds one of user 2's
        orders.append(order)
    assert orders[0] != orders[1]


def test_each_user_s_last_can_be_left_out_and_learned_alone() -> None:
    data = some(True)
    assert data.less_last().items.tolist() == [0, 1, 2, 3, *range(5, 34)]  # of a user with one, that one stays
    last = list(data.batches(np.random.default_rng(0), 1, 2, data.is_last))
    found = {batch.items.item(): batch.query.items[0].tolist() for batch in last}
    assert found == {4: [2, 3], 34: [32, 33]}


def test_an_epoch_of_sequences_has_every_interaction_as_a_target_once() -> None:
    parts = list(some(True).sequences(np.random.default_rng(0), 4, length=7))
    targets, seen = [], []
    for query, weights in parts:
        assert weights.shape == query.items.shape == (len(query.now), 8)
        assert ((weights > 0) == (query.items >= 0)).all()
        targets += query.items[:, 1:][weights[:, 1:] > 0].tolist()
        seen += [history[history >= 0].tolist() for history in query.items]
    assert sorted(targets) == list(range(35))
    assert all(entries == list(range(entries[0], entries[-1] + 1)) for entries in seen)
    assert {entries[0] for entries in seen} == {0, 1, 5, 6, 13, 20, 27}


def test_without_an_order_a_history_is_drawn_from_the_user_s_others() -> None:
    seen: dict[int, set[int]] = {}
    for seed in range(200):
        for batch in some(False).batches(np.random.default_rng(seed), 8, max_entries=3):
            for item, history in zip(batch.items.tolist(), batch.query.items, strict=True):
                drawn = history[history != PAD].tolist()
                assert len(set(drawn)) == len(drawn)
                assert (history[: 3 - len(drawn)] == PAD).all()
                seen.setdefault(item, set()).update(drawn)
    assert seen[0] == set()
    assert seen[2] == {1, 3, 4}
    assert seen[20] == set(range(5, 35)) - {20}


def test_a_query_holds_a_user_s_newest_entries() -> None:
    query = some(True).queries(np.array([2, 0]), max_entries=2)
    assert query.items.tolist() == [[33, 34], [PAD, 0]]
    assert query.users is not None
    assert query.users.tolist() == [b"2", b"0"]
    assert (query.at.max(axis=1) < query.now).all()


def test_a_constant_scorer_hits_as_often_as_chance() -> None:
    interactions = some(True)
    query = interactions.queries(np.zeros(4, np.int64), 2)
    items = np.tile(np.arange(100), (4, 1))  # a model that knows no item ties them all
    ranks = ranks_among(Popularity(), query, items)
    assert ranks.tolist() == [50.5] * 4
    assert counted(ranks, ("hr@10",))["hr@10"].sum() == 0


def test_ranks_count_as_the_metrics_are_defined() -> None:
    found = counted(np.array([1.0, 2.5, 11.0, np.inf]), ("hr@10", "ndcg@10", "mrr@10", "recall@20"))
    assert found["hr@10"].tolist() == [1, 1, 0, 0]
    np.testing.assert_allclose(found["ndcg@10"], [1.0, np.log(2) / np.log(3.5), 0, 0])
    np.testing.assert_allclose(found["mrr@10"], [1.0, 0.4, 0, 0])
    assert found["recall@20"].tolist() == [1, 1, 1, 0]
    with pytest.raises(ValueError, match="unknown metric 'auc'"):
        counted(np.ones(1), ("auc",))


def test_a_mixture_learns_from_each_user_s_last_which_its_parts_learn_afterwards() -> None:
    users, items = np.repeat(np.arange(40), 6), np.tile(np.arange(6), 40)
    data = Interactions(users, items, 40, 6)
    trainings = {"blend": Training(keys={"others": []}), "transformer": Training(2, {"window": 8}, sequences=16)}
    told: list[str] = []
    models, _ = trained(("blend", "popularity"), trainings, 0, Lessons(data, 64, 5), told.append)
    popularity, blend = models["popularity"], models["blend"]
    assert isinstance(blend, Blend)
    query = data.queries(np.array([0]), 5)
    np.testing.assert_allclose(popularity.score(query)[0], np.log2(40))  # every interaction once
    assert blend.num_steps == 2  # 40 of them, 16 at a time: of the first 16 no part knew the item
    assert [line.partition(",")[0] for line in told] == ["epoch 1 of 1", "epoch 1 of 2", "epoch 2 of 2"]


def test_a_protocol_reports_every_model_over_all_seeds_beside_the_figures_of_others(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tastes = rng.integers(2, size=20)
    lines = [f"{u}\t{2 * i + tastes[u]}\t5.0" for u in range(20) for i in rng.permutation(20)[:12].tolist()]
    tests = [
        f"({u},{2 * 19 + tastes[u]})\t" + "\t".join(str(2 * i + 1 - tastes[u]) for i in range(20)) for u in range(20)
    ]
    write(tmp_path / "conet-ml-100k" / "100k.train.rating.gz", *lines)
    write(tmp_path / "conet-ml-100k" / "100k.test.negative.gz", *tests)
    for out in ("one", "two"):
        run_protocol("cn-99", ("popularity", "conet"), tmp_path, tmp_path / out, (3, 4))
    document = json.loads((tmp_path / "one" / "metrics.json").read_bytes())
    assert (tmp_path / "one" / "metrics.json").read_bytes() == (tmp_path / "two" / "metrics.json").read_bytes()
    assert (document["protocol"], document["tests"], document["events"]) == ("CN-99", 20, 240)
    assert document["config"]["seeds"] == [3, 4]
    assert document["config"]["configuration"] == fingerprint()
    assert document["models"]["conet"]["hr@10"] > document["models"]["popularity"]["hr@10"]
    assert document["spread"]["popularity"] == {"hr@10": 0.0, "ndcg@10": 0.0}
    assert document["references"]["CoNet"] == {"hr@10": 0.7116, "ndcg@10": 0.4213}
    rows = (tmp_path / "one" / "seeds.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows] == [
        ["seed", "model"],
        ["3", "popularity"],
        ["3", "conet"],
        ["4", "popularity"],
        ["4", "conet"],
    ]
    assert (tmp_path / "one" / "comparison.png").stat().st_size > 5_000


def test_every_published_protocol_says_what_it_is_held_against() -> None:
    for name, protocol in PROTOCOLS.items():
        assert protocol.references or name in ("loo-full-validation", "kuairand-auc", "forgetting")
        assert all(set(known.metrics) <= set(protocol.metrics) for known in protocol.references)
