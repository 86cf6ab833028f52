# How Kafka is reached, and the names of Runnel's topics.
from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec
from pydantic import SecretStr

from stream.writer import Grouping

ClientValue = str | int | float | bool | None
ClientSettings = dict[str, ClientValue]


def _of_consumers() -> set[str]:
    from kafka import KafkaConsumer  # here, for most homes do without

    return set(KafkaConsumer.DEFAULT_CONFIG)


def _of_producers() -> set[str]:
    from kafka import KafkaProducer

    return set(KafkaProducer.DEFAULT_CONFIG)


def _all_settings() -> set[str]:
    from kafka import KafkaAdminClient

    return _of_consumers() & _of_producers() & set(KafkaAdminClient.DEFAULT_CONFIG)


@dataclass(frozen=True)
class KafkaTopics:
    """Names of the topics; `runnel topics` makes those that are missing."""

    events: str = "runnel.events"  # key: user_id
    items: str = "runnel.items"  # the catalogue, compacted, key: item_id; every fold reads all of it
    fold_deltas: str = "runnel.fold-deltas"  # partition i: the deltas of fold i
    learn_deltas: str = "runnel.learn-deltas"  # the learn stage's, one partition
    dead_letters: str = "runnel.dead-letters"  # what the folds could not take, as JSON for anyone


PRODUCING: ClientSettings = {
    "enable_idempotence": True,
    "acks": "all",
    "allow_auto_create_topics": False,
    "request_timeout_ms": 5_000,
    "delivery_timeout_ms": 10_000,  # then who waits is told that the brokers do not take it
    "max_block_ms": 5_000,
    "linger_ms": 0,  # a group is sent whole: there is nothing to wait for
    "batch_size": 256 * 1024,
    "max_request_size": 1_000_000,
}
# Positions that are guessed, and acknowledgements that mean nothing.
_NOT_TO_BE_SET = {"auto_offset_reset", "enable_auto_commit", "isolation_level", "group_id"}
_NOT_TO_BE_SET |= {"acks", "enable_idempotence", "transactional_id", "bootstrap_servers"}


class KafkaWriterSettings(msgspec.Struct):
    """What the process that produces is told."""

    producer: ClientSettings  # holds the password
    events_topic: str
    items_topic: str
    grouping: Grouping

    def __repr__(self) -> str:
        return f"KafkaWriterSettings({self.events_topic!r}, {self.items_topic!r})"


@dataclass(frozen=True)
class KafkaConfig:
    """Where events come from and go to, if not the embedded log."""

    servers: str = ""  # HOST:PORT,HOST:PORT; empty: the embedded log
    topics: KafkaTopics = field(default_factory=KafkaTopics)
    group: str = (
        "runnel-fold"  # whose committed offsets tell lag tools how far the folds are; positions are the stores'
    )
    look_seconds: float = 10.0  # within which a new partition, or a topic that is gone, is noticed
    deltas: Literal["topics", "home"] = (
        "topics"  # whence learn and serve have both stages' deltas; home: its own stores
    )
    security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    mechanism: str = "SCRAM-SHA-512"  # of SASL
    username: str = ""
    password: SecretStr = field(default_factory=lambda: SecretStr(""))
    password_file: Path | None = None  # its first line, instead of `password`
    ca_file: Path | None = None  # PEM
    certificate_file: Path | None = None  # PEM, for mTLS
    key_file: Path | None = None  # PEM
    client: ClientSettings = field(default_factory=dict, repr=False)  # any of kafka-python's, of all its clients
    consumer: ClientSettings = field(default_factory=dict, repr=False)  # of consumers alone
    producer: ClientSettings = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for section, names in (("client", _all_settings), ("consumer", _of_consumers), ("producer", _of_producers)):
            given: ClientSettings = getattr(self, section)
            if given and (unknown := sorted(given.keys() - names())):
                raise ValueError(f"kafka.{section}.{unknown[0]}: kafka-python has no setting of that name")
            if taken := sorted(given.keys() & _NOT_TO_BE_SET):
                raise ValueError(f"kafka.{section}.{taken[0]}: what it does depends on this, it cannot be set")
        told = PRODUCING | self.client | self.producer
        delivery, request = (float(told[name] or 0) for name in ("delivery_timeout_ms", "request_timeout_ms"))
        if delivery < request + float(told["linger_ms"] or 0):
            least = "request_timeout_ms and linger_ms together"
            raise ValueError(f"kafka.producer.delivery_timeout_ms = {delivery:.0f}: must be at least {least}")

    @property
    def has_delta_topics(self) -> bool:
        """Whether deltas travel on topics, and not from store to store in one home."""
        return bool(self.servers) and self.deltas == "topics"

    def client_settings(
        self, ours: ClientSettings | None = None, section: ClientSettings | None = None
    ) -> ClientSettings:
        """What a kafka-python client is made with: `ours` for what it does, `client` over it, its own `section` over
        that. Holds the password: not for logs. Raises OSError where the file of the password cannot be read."""
        settings: ClientSettings = {"bootstrap_servers": self.servers, "security_protocol": self.security}
        if self.security.startswith("SASL"):
            settings |= {"sasl_mechanism": self.mechanism, "sasl_plain_username": self.username}
            settings["sasl_plain_password"] = self._password()
        files = {"ssl_cafile": self.ca_file, "ssl_certfile": self.certificate_file, "ssl_keyfile": self.key_file}
        settings |= {name: str(path) for name, path in files.items() if path is not None}
        settings |= {"bootstrap_timeout_ms": 5_000, "reconnect_backoff_max_ms": 1_000}
        return settings | (ours or {}) | self.client | (section or {})

    def writer_settings(self, grouping: Grouping | None = None) -> KafkaWriterSettings:
        """Of a producer to our topics; raises as `client_settings`."""
        topics = self.topics
        return KafkaWriterSettings(
            self.client_settings(PRODUCING, self.producer),
            topics.events,
            topics.items,
            grouping or Grouping(1 << 20, 0.0),
        )

    def _password(self) -> str:
        if self.password_file is None:
            return self.password.get_secret_value()
        lines = self.password_file.read_text().splitlines()
        return lines[0] if lines else ""
