# `runnel fold` on a Kafka as a process that tests kill.
from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from state.store import Store
from stream.fold import FoldStage
from stream.kafka_config import KafkaConfig
from stream.kafka_source import KafkaSource
from tests.stream.helpers import named_dump
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
        settings = {
            "RUNNEL_KAFKA__TOPICS__EVENTS": self.config.topics.events,
            "RUNNEL_KAFKA__TOPICS__ITEMS": self.config.topics.items,
            "RUNNEL_FOLD__USER_TTL_DAYS": "0",
        }
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

    def require_exact(self) -> None:
        """Wait until it has folded all that its topics hold, end it, and fold the same in one go into another store:
        both say the same but for their numbers of items."""
        source = KafkaSource(self.config)
        ends = source.end_offsets()
        source.close()
        wait_until(lambda: stored_offsets(self.home / "fold", "fold") == ends, 120)
        self.end(signal.SIGTERM)
        with Store(self.home.with_name("reference"), "fold", writer=True) as reference:
            source = KafkaSource(self.config)
            stage = FoldStage(reference, source)
            wait_until(lambda: stage.step(0.2).num_messages == 0 and stage.offsets == ends, 120)
            source.close()
            with Store(self.home / "fold", "fold") as store:
                assert named_dump(store) == named_dump(reference)
