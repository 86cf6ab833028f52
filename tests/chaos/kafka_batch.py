# A batch of kills with a real Kafka: stages, shippers, follower, writer and broker, then the comparison.
from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from time import sleep

import numpy as np
import psutil
from kafka import KafkaConsumer, TopicPartition

from models.base import Model
from models.covisitation import Covisitation
from models.popularity import Popularity
from state.dump import dump, dump_serving
from state.follower import StoreSource
from state.meta import get_version
from state.offsets import get_offsets, get_totals
from state.store import Store, StoreMissing
from stream.fold import FoldStage
from stream.kafka_config import KafkaConfig
from stream.kafka_source import KafkaSource
from stream.learn import LearnStage
from stream.run import FOLD_NAME
from tests.brokers import Cluster
from tests.chaos.batch import AIMED_SECONDS, AIMED_SHARE, AT_ONCE_SHARE, STARTING_SHARE, Outcome, await_commit
from tests.stream.helpers import named_dump
from tests.stream.waiting import stored_offsets, wait_until

ROOT = Path(__file__).parents[2]
STAGES = ("fold", "learn", "follow")
SHIPPERS = ("ship-fold", "ship-learn")
TARGETS = (*STAGES, *SHIPPERS, "writer", "broker")
WORK_SECONDS, SETTLE_SECONDS = 90.0, 180.0
_MARK = re.compile(rb'"mark": "([^"]+)"')
_SETTINGS = {
    "RUNNEL_FOLD__USER_TTL_DAYS": "0",
    "RUNNEL_FOLD__COMMIT_SECONDS": "0.005",
    "RUNNEL_LEARN": '{"models": ["popularity", "covisitation"], "commit_seconds": 0.02}',
}


class Crew:
    """The processes of one home on one broker; one that is killed is started again at once."""

    def __init__(self, folder: Path) -> None:
        self.home, self.cluster = folder / "home", Cluster(folder / "kafka")
        self.config = self.cluster.config()
        self.acknowledged, self._logs, self._num_writers = folder / "acknowledged", folder / "logs", 0
        for path in (self.home, self.acknowledged, self._logs):
            path.mkdir()
        self.processes = {name: self._start(name) for name in (*STAGES, "writer")}
        self.findings: list[str] = []

    def kill(self, name: str) -> None:
        """SIGKILL, and a new start; a shipper's is its stage's to make."""
        if name == "broker":
            self.cluster.restart()
        elif name in SHIPPERS:
            self._kill_shipper(name.removeprefix("ship-"))
        else:
            process = self.processes[name]
            if process.poll() is not None:
                self.findings.append(f"{name} ended by itself with {process.returncode}")
            os.killpg(process.pid, signal.SIGKILL)  # a writer's own producer too
            process.wait()
            self.processes[name] = self._start(name)

    def await_work(self) -> None:
        """Return when what is written now has come to the node."""
        before = self._num_followed()
        wait_until(lambda: self._num_followed() > before, WORK_SECONDS)

    def finish(self) -> None:
        """Stop the writer, wait until the node holds all of it, and stop the others."""
        self._end("writer")
        with closing(KafkaSource(self.config)) as source:
            ends = source.end_offsets()
        wait_until(lambda: stored_offsets(self.home / "learn", "learn") == ends, SETTLE_SECONDS)
        wait_until(lambda: _level(self.home), SETTLE_SECONDS)
        for name in STAGES:
            self._end(name)

    def abandon(self) -> None:
        """Leave nothing running."""
        for process in self.processes.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.cluster.close()

    def _end(self, name: str) -> None:
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        if (code := process.wait(60)) != 0:
            self.findings.append(f"{name} ended with {code}")

    def _kill_shipper(self, stage: str) -> None:
        with suppress(psutil.NoSuchProcess):  # its stage just starts
            for child in psutil.Process(self.processes[stage].pid).children():
                child.kill()

    def _num_followed(self) -> int:
        try:
            with Store(self.home / "follow") as node, node.read() as txn:
                return sum(get_offsets(txn, node, "learn").values())
        except StoreMissing:
            return 0

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        topics, env = vars(self.config.topics), dict(os.environ | _SETTINGS)
        if name == "writer":
            self._num_writers += 1
            mark, told = f"w{self._num_writers}", [self.config.servers, topics["events"], topics["items"]]
            arguments = [",".join(told), mark, str(self.acknowledged / mark)]
            command = [sys.executable, "-m", "tests.chaos.kafka_writer", *arguments]
        else:
            env |= {f"RUNNEL_KAFKA__TOPICS__{field.upper()}": topic for field, topic in topics.items()}
            options = ["--home", str(self.home), "--kafka", self.config.servers]
            command = [sys.executable, str(ROOT / "runnel.py"), name, *options]
        with (self._logs / f"{name}.log").open("ab") as log:
            return subprocess.Popen(command, env=env, cwd=ROOT, stdout=log, stderr=log, process_group=0)


def run_kafka_batch(
    folder: Path, rng: np.random.Generator, targets: Sequence[str], aimed_share: float = AIMED_SHARE
) -> Outcome:
    """Kill these targets in a drawn order at random instants under load, in `folder`, which must be empty.

    Of the kills `aimed_share` come just after a commit, half of these as soon as it shows.
    """
    crew = Crew(folder)
    try:
        for name in rng.permutation(np.array(targets)).tolist():
            if rng.random() >= STARTING_SHARE:
                crew.await_work()
            sleep(rng.uniform(0.0, 0.5))  # the instant, not a wait
            if rng.random() < aimed_share:
                await_commit(crew.home, name.removeprefix("ship-") if name in (*STAGES, *SHIPPERS) else "fold")
                if rng.random() >= AT_ONCE_SHARE:
                    sleep(rng.uniform(0.0, AIMED_SECONDS))
            crew.kill(name)
        crew.finish()
        findings = [*crew.findings, *_log_findings(crew), *_content_findings(crew.home, crew.config)]
    finally:
        crew.abandon()
    return Outcome(len(targets), sum(stored_offsets(crew.home / "learn", "learn").values()), findings)


def _level(home: Path) -> bool:
    """Whether the node holds the last versions of both stages, and the learner has learned the last of the fold's."""
    with (
        Store(home / "fold") as folded,
        Store(home / "learn") as learned,
        Store(home / "follow") as node,
        folded.read() as of_fold,
        learned.read() as of_learn,
        node.read() as of_node,
    ):
        versions = {FOLD_NAME: get_version(of_fold, folded, "fold")}
        is_learned = learned.get_meta(of_learn, "fold_versions", dict[str, int]) == versions
        versions["learn"] = get_version(of_learn, learned, "learn")
        return is_learned and node.get_meta(of_node, "positions", dict[str, int]) == versions


def _log_findings(crew: Crew) -> Iterator[str]:
    """What was acknowledged stands in the topics."""
    lines = [line for file in crew.acknowledged.iterdir() for line in file.read_text().splitlines(keepends=True)]
    acknowledged = {line.strip() for line in lines if line.endswith("\n")}
    found: set[str] = set()
    with closing(KafkaConsumer(**crew.config.client_settings({"enable_auto_commit": False}))) as consumer:
        partitions = [TopicPartition(topic, 0) for topic in (crew.config.topics.events, crew.config.topics.items)]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        while any(consumer.position(each) < end for each, end in ends.items()):
            for records in consumer.poll(1_000).values():
                found |= {mark[1].decode() for record in records if (mark := _MARK.search(record.value))}
    yield from (f"topics: {mark} was acknowledged and is not there" for mark in sorted(acknowledged - found)[:5])
    if not acknowledged:
        yield "topics: nothing was acknowledged"


def _content_findings(home: Path, config: KafkaConfig) -> Iterator[str]:
    """Where stores differ from those of stages that read the topics in one go, and the node from its stages."""
    with (
        Store(home.with_name("fold"), "fold", writer=True) as folded,
        Store(home.with_name("learn"), "learn", writer=True) as learned,
        Store(home / "fold") as fold,
        Store(home / "learn") as learn,
        Store(home / "follow") as node,
        closing(KafkaSource(config)) as source,
    ):
        stage, ends = FoldStage(folded, source), source.end_offsets()
        wait_until(lambda: stage.step(0.2).num_messages == 0 and stage.offsets == ends, 120)
        models: dict[str, Model] = {"popularity": Popularity(), "covisitation": Covisitation()}
        learner = LearnStage(learned, {FOLD_NAME: StoreSource(folded)}, models, np.random.default_rng(0))
        while learner.step(0).num_deltas:
            pass
        for name, store in (("fold", fold), ("learn", learn), ("follow", node)):
            yield from (f"{name}: {finding}" for finding in store.verify())
        yield from _differences("fold", named_dump(folded), named_dump(fold))
        yield from _differences("learn", dump(learned), dump(learn))
        yield from _differences("follow", _of_stages(folded, learned), _of_node(node))


def _of_stages(fold: Store, learn: Store) -> dict[str, object]:
    with learn.read() as txn, fold.read() as folded:
        said = named_dump(fold) | {"serving": dump_serving(txn, learn)}
        totals = get_totals(folded, fold) | get_totals(txn, learn)
        return said | {"offsets": get_offsets(txn, learn, "learn"), "totals": totals, "dead letters": []}


def _of_node(node: Store) -> dict[str, object]:
    with node.read() as txn:
        said = named_dump(node) | {"serving": dump_serving(txn, node)}
        return said | {"offsets": get_offsets(txn, node, "fold")}


def _differences(store: str, expected: Mapping[str, object], found: Mapping[str, object]) -> Iterator[str]:
    for part in expected.keys() | found.keys():
        if found.get(part) != expected.get(part):
            yield f"{store}: {part} differs from that of an uninterrupted run"
