# How Kafka is reached, and the names of Runnel's topics.
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec
from pydantic import SecretStr

from stream.writer import Grouping

ClientValue = str | int | float | bool | None
ClientSettings = dict[str, ClientValue]


@dataclass(frozen=True)
class KafkaTopics:
    """Names of the topics; `runnel topics` makes those that are missing."""

    events: str = "runnel.events"  # key: user_id
    items: str = "runnel.items"  # the catalogue, compacted, key: item_id; every fold reads all of it


class KafkaWriterSettings(msgspec.Struct):
    """What the process that produces is told."""

    producer: ClientSettings  # holds the password
    events_topic: str
    items_topic: str
    grouping: Grouping


@dataclass(frozen=True)
class KafkaConfig:
    """Where events come from and go to, if not the embedded log."""

    servers: str = ""  # HOST:PORT,HOST:PORT; empty: the embedded log
    topics: KafkaTopics = field(default_factory=KafkaTopics)
    group: str = (
        "runnel-fold"  # whose committed offsets tell lag tools how far the folds are; positions are the stores'
    )
    look_seconds: float = 10.0  # within which a new partition, or a topic that is gone, is noticed
    security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    mechanism: str = "SCRAM-SHA-512"  # of SASL
    username: str = ""
    password: SecretStr = field(default_factory=lambda: SecretStr(""))
    password_file: Path | None = None  # its first line, instead of `password`
    ca_file: Path | None = None  # PEM
    certificate_file: Path | None = None  # PEM, for mTLS
    key_file: Path | None = None  # PEM
    client: ClientSettings = field(default_factory=dict)  # any of kafka-python's, of all its clients
    consumer: ClientSettings = field(default_factory=dict)  # of consumers alone
    producer: ClientSettings = field(default_factory=dict)

    def client_settings(self, *more: Mapping[str, ClientValue]) -> ClientSettings:
        """What a kafka-python client is made with; later ones of `more` win. Holds the password: not for logs. Raises
        OSError where the file of the password cannot be read."""
        settings: ClientSettings = {"bootstrap_servers": self.servers, "security_protocol": self.security}
        if self.security.startswith("SASL"):
            settings |= {"sasl_mechanism": self.mechanism, "sasl_plain_username": self.username}
            settings["sasl_plain_password"] = self._password()
        files = {"ssl_cafile": self.ca_file, "ssl_certfile": self.certificate_file, "ssl_keyfile": self.key_file}
        settings |= {name: str(path) for name, path in files.items() if path is not None}
        settings |= {"bootstrap_timeout_ms": 5_000, "reconnect_backoff_max_ms": 1_000} | self.client
        for each in more:
            settings |= each
        return settings

    def writer_settings(self, grouping: Grouping | None = None) -> KafkaWriterSettings:
        """Of a producer to our topics; raises as `client_settings`."""
        topics = self.topics
        return KafkaWriterSettings(
            self.client_settings(self.producer), topics.events, topics.items, grouping or Grouping(1 << 20, 0.0)
        )

    def _password(self) -> str:
        if self.password_file is None:
            return self.password.get_secret_value()
        lines = self.password_file.read_text().splitlines()
        return lines[0] if lines else ""
