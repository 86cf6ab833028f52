# A warm start: a file of past events, folded and learned in one pass as if they had come by the log.
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash

from state.follower import StoreSource
from state.store import Store
from stream.fold import FoldStage
from stream.learn import LearnStage
from stream.readers import open_data_set
from stream.rebuild import open_models
from stream.run import FOLD_NAME, FoldRunConfig, now_ms
from stream.run_learn import LearnRunConfig
from stream.source import IterableSource

_PACK = 256  # events of one message


class WarmStart(NamedTuple):
    """How far a pass over a file is: its events that were read (those of an earlier pass are skipped), those that
    broke a rule of the schema, those learned, and the model version."""

    num_read: int
    num_rejected: int
    num_learned: int
    version: int


def warm_start(
    home: Path,
    file: Path,
    fold_config: FoldRunConfig,
    learn_config: LearnRunConfig,
    seed: int,
    is_over: Callable[[], bool],
) -> Iterator[WarmStart]:
    """Fold and learn a file of events, one JSON object a line, in its order; yields after every commit.

    The file is a partition of its own, named by its content: killed or stopped, the same call goes on where it was, and
    once it is done does nothing. Events that come by the log as well are repeats, as any event that comes twice. Stages
    of the home must not run: StoreLocked says so. Raises DataError naming file and line.
    """
    import torch  # here and not above, as in run_learn

    torch.set_num_threads(learn_config.num_threads)
    with ExitStack() as stack:
        folded = stack.enter_context(Store(home / "fold", "fold", True, fold_config.map_size_bytes))
        learned = stack.enter_context(Store(home / "learn", "learn", True, learn_config.map_size_bytes))
        fold = FoldStage(folded, IterableSource(_messages(file), _partition(file)), config=fold_config.stage)
        models = open_models(learned, learn_config.models, seed, learn_config.configs)
        rng = np.random.default_rng([seed, *b"learn"])
        learn = LearnStage(learned, {FOLD_NAME: StoreSource(folded)}, models, rng, config=learn_config.stage)
        num_read = num_rejected = num_learned = 0
        while not is_over():
            step = fold.step()
            while (result := learn.step(now_ms())).num_deltas:
                num_learned += result.num_examples
            if not step.num_messages:
                return
            num_read, num_rejected = num_read + step.num_events, num_rejected + step.num_rejected
            yield WarmStart(num_read, num_rejected, num_learned, learn.version)


def _partition(file: Path) -> str:
    """By its content, so that the same events at another path are not read again."""
    digest = xxhash.xxh64()
    with file.open("rb") as data:
        while part := data.read(1 << 20):
            digest.update(part)
    return f"history-{digest.hexdigest()}"


def _messages(file: Path) -> Iterator[tuple[int, bytes]]:
    """The events in arrays; the log's stamp is the greatest event time so far, as when they were new."""
    events, _ = open_data_set("events", file)
    stamp = 0
    while packed := list(islice(events, _PACK)):
        stamp = max(stamp, *(event.timestamp for event in packed))
        yield stamp, b"[" + b",".join([event.value for event in packed]) + b"]"
