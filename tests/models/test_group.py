# A learn group learns what one rank does: real processes over gloo.
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from models.transformer import Transformer
from serving.ports import free_ports
from tests.models.group_process import SPOILED, Outcome, outcome_of, start

UNTRAINED = ("generator", "recent_ring", "recent_taken", "refused_updates", "adam_steps")


@pytest.fixture(scope="module")
def alone() -> Iterator[Outcome]:
    """What is learned without a group."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield outcome_of(Transformer(np.random.default_rng(0)))
    torch.set_num_threads(num_threads)


def outcome_of_ranks(num_ranks: int, tmp_path: Path) -> Outcome:
    (port,) = free_ports(1)
    ranks = [start(tmp_path / "outcome", rank, num_ranks, port) for rank in range(num_ranks)]
    assert [rank.wait(60) for rank in ranks] == [0] * num_ranks
    return msgspec.msgpack.decode((tmp_path / "outcome").read_bytes(), type=Outcome)


def test_one_rank_learns_the_same_bits_as_no_group(alone: Outcome, tmp_path: Path) -> None:
    assert outcome_of_ranks(1, tmp_path) == alone


def test_two_ranks_learn_what_one_does_but_for_the_order_of_float_sums(alone: Outcome, tmp_path: Path) -> None:
    together = outcome_of_ranks(2, tmp_path)
    assert np.isinf(alone.losses[SPOILED])
    np.testing.assert_allclose(together.losses, alone.losses, rtol=1e-4)
    assert together.held.keys() == alone.held.keys()
    assert together.held != alone.held
    for key, held in alone.held.items():
        if key.removeprefix("transformer.") in UNTRAINED:
            assert together.held[key] == held, key
        else:
            found, expected = (np.frombuffer(data, np.float32) for data in (together.held[key], held))
            np.testing.assert_allclose(found, expected, atol=1e-3, err_msg=key)
