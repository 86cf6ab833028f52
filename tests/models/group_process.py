# A rank of a learn group, for tests: -m tests.models.group_process OUT RANK NUM_RANKS PORT; rank 0 writes OUT.
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch forgets to list it

from models.base import Batch
from models.group import Group
from models.transformer import Transformer
from tests.models.examples import as_batches, as_bytes, random_clicks

SPOILED = 9  # the batch that is learned once with a gradient that is not finite, and then again


class Outcome(msgspec.Struct):
    """What was learned: a loss a batch, and all that the models hold."""

    losses: list[float]
    held: dict[str, bytes]


def start(out: Path, rank: int, num_ranks: int, port: int) -> subprocess.Popen[bytes]:
    """One rank of a group whose ranks meet at a port of this machine."""
    command = [sys.executable, "-m", "tests.models.group_process", str(out), str(rank), str(num_ranks), str(port)]
    return subprocess.Popen(command)


def outcome_of(model: Transformer) -> Outcome:
    """What a model learns of a stream whose items expire, among them some that come again, with one update refused."""
    losses = []
    for number, batch in enumerate(as_batches(random_clicks(900, num_items=60), [50] * 18)):
        if number % 4 == 3:
            model.items.remove(np.arange(number, number + 10))
        if number == SPOILED:
            losses.append(_refused(model, batch))
        losses.append(model.learn(batch))
    return Outcome(losses, as_bytes({model.name: model}))


def _refused(model: Transformer, batch: Batch) -> float:
    rows = np.flatnonzero(model.items.present)[:20]
    before = model.items.values[rows].copy()
    model.items.values[rows] = np.inf
    loss = model.learn(batch)
    model.items.values[rows] = before
    return loss


def main(out: Path, rank: int, num_ranks: int, port: int) -> None:
    """Learn as rank 0, or help."""
    torch.set_num_threads(1)
    store = TCPStore("127.0.0.1", port, num_ranks, rank == 0)
    group = Group(store, rank, num_ranks, torch.device("cpu"))
    if group.rank:
        group.help()
        return
    model = Transformer(np.random.default_rng(0))
    group.lead({model.name: model})
    out.write_bytes(msgspec.msgpack.encode(outcome_of(model)))
    group.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
