# What must hold after a batch of kills: nothing lost, nothing twice, the bytes of an uninterrupted run, sound files.
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.base import Model
from models.covisitation import Covisitation
from models.popularity import Popularity
from state.dump import dump
from state.follower import StoreSource
from state.soundness import unsound
from state.store import Store
from stream.dead_letters import read_dead_letters
from stream.fold import FoldStage
from stream.learn import LearnStage
from stream.log import EventLog, LogSource
from stream.run import FOLD_NAME

_MARK = re.compile(rb'"mark": "([^"]+)"')


@dataclass(frozen=True)
class Acknowledged:
    """What the writers were told: mark of a value → its offset. `is_all`: no writer was killed."""

    offsets: dict[str, int]
    is_all: bool

    @staticmethod
    def of_folder(folder: Path, is_all: bool) -> Acknowledged:
        """The lines of all writers; a last line that a kill cut short was not read by anyone."""
        lines = [line for file in folder.iterdir() for line in file.read_text().splitlines(keepends=True)]
        pairs = (line.split() for line in lines if line.endswith("\n"))
        return Acknowledged({mark: int(offset) for mark, offset in pairs}, is_all)


def compare(home: Path, log: EventLog, base: Path, acknowledged: Acknowledged) -> list[str]:
    """What is wrong with a home whose stages have stopped after learning the whole log; empty when all is well."""
    return [*_log_findings(log, acknowledged), *_file_findings(home), *_content_findings(home, log, base)]


def _log_findings(log: EventLog, acknowledged: Acknowledged) -> Iterator[str]:
    messages = log.read(0, log.end_offset())
    if [message.offset for message in messages] != list(range(len(messages))):
        yield "log: the offsets have a hole"
    marks = [found.group(1).decode() if (found := _MARK.search(each.value)) else "" for each in messages]
    for mark, times in Counter(marks).items():
        if times > 1:
            yield f"log: {mark or 'a value of no writer'} stands there {times} times"
    for mark, offset in acknowledged.offsets.items():
        if offset >= len(marks) or marks[offset] != mark:
            yield f"log: {mark} was acknowledged and is not at offset {offset}"
    if not acknowledged.offsets:
        yield "log: nothing was acknowledged"
    if acknowledged.is_all and len(marks) != len(acknowledged.offsets):
        yield f"log: {len(marks)} values, {len(acknowledged.offsets)} acknowledged, and no writer was killed"


def _file_findings(home: Path) -> Iterator[str]:
    yield from (f"log: {finding}" for finding in unsound(home / "log"))
    for name in ("fold", "learn"):
        with Store(home / name) as store:
            yield from (f"{name}: {finding}" for finding in store.verify())


def _content_findings(home: Path, log: EventLog, base: Path) -> Iterator[str]:
    expected = uninterrupted(log, base)
    found = {}
    with Store(home / "fold", "fold") as folded, folded.read() as txn:
        found["fold"] = {**dump(folded), "dead letters": repr(list(read_dead_letters(txn, folded))).encode()}
    with Store(home / "learn", "learn") as learned:
        found["learn"] = dump(learned)
    for store, parts in expected.items():
        for part in parts.keys() | found[store].keys():
            if found[store].get(part) != parts.get(part):
                yield f"{store}: {part} differs from that of an uninterrupted run"


def uninterrupted(log: EventLog, base: Path) -> dict[str, dict[str, bytes]]:
    """Dumps of both stores, and the dead letters, of stages that read the log from its beginning in one go."""
    with Store(base / "fold", "fold", writer=True) as folded, Store(base / "learn", "learn", writer=True) as learned:
        fold = FoldStage(folded, LogSource(log))
        models: dict[str, Model] = {"popularity": Popularity(), "covisitation": Covisitation()}
        learn = LearnStage(learned, {FOLD_NAME: StoreSource(folded)}, models, np.random.default_rng(0))
        while fold.step().num_messages:
            pass
        while learn.step(0).num_deltas:
            pass
        with folded.read() as txn:
            letters = repr(list(read_dead_letters(txn, folded))).encode()
            return {"fold": {**dump(folded), "dead letters": letters}, "learn": dump(learned)}
