# `runnel fold` on a Kafka as a process that tests kill.
from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from state.store import Store
from stream.dead_letter_topic import next_to_publish
from stream.dead_letters import dead_letters_from, read_dead_letters
from stream.fold import FoldStage
from stream.kafka_config import KafkaConfig
from stream.kafka_source import KafkaSource
from tests.stream.helpers import named_dump
from tests.stream.published import published
from tests.stream.waiting import stored_offsets, wait_until

ROOT = Path(__file__).parents[1]


class FoldProcess:
    """One home's fold stage, started again and again."""

    def __init__(self, home: Path, config: KafkaConfig) -> None:
        self.home, self.config = home, config
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it must not be running."""
        assert self._process is None
        settings = {f"RUNNEL_KAFKA__TOPICS__{key.upper()}": name for key, name in asdict(self.config.topics).items()}
        settings["RUNNEL_FOLD__USER_TTL_DAYS"] = "0"
        options = ["--home", str(self.home), "--kafka", self.config.servers, "--deltas", "home"]
        command = [sys.executable, str(ROOT / "runnel.py"), "fold", *options]
        self.home.mkdir(exist_ok=True)
        with (self.home / "fold.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=os.environ | settings, stdout=log, stderr=log)

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send it a signal that ends it, and wait; nothing where it does not run."""
        if self._process is not None:
            self.send_signal(number)
            self._process.wait(60)
            self._process = None

    def num_folded(self) -> int:
        """Messages that its store has taken in."""
        return sum(stored_offsets(self.home / "fold", "fold").values())

    def has_published(self) -> bool:
        """Whether brokers have acknowledged all dead letters of its store."""
        with Store(self.home / "fold", "fold") as store, store.read() as txn:
            return not any(dead_letters_from(txn, store, next_to_publish(txn, store)))

    def require_exact(self) -> None:
        """Wait until it has folded all that its topics hold, end it, and fold the same in one go into another store:
        both say the same but for their numbers of items. Its dead letters are in their topic."""
        source = KafkaSource(self.config)
        ends = source.end_offsets()
        source.close()
        wait_until(lambda: stored_offsets(self.home / "fold", "fold") == ends, 120)
        wait_until(self.has_published, 120)
        self.end(signal.SIGTERM)
        with Store(self.home.with_name("reference"), "fold", writer=True) as reference:
            source = KafkaSource(self.config)
            stage = FoldStage(reference, source)
            wait_until(lambda: stage.step(0.2).num_messages == 0 and stage.offsets == ends, 120)
            source.close()
            with Store(self.home / "fold", "fold") as store, store.read() as txn:
                assert named_dump(store) == named_dump(reference)
                kept = {letter.identity for letter in read_dead_letters(txn, store)}
        assert kept <= {letter["id"] for letter in published(self.config)}
