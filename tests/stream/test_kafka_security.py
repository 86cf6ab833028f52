# Kafka over TLS: SCRAM passwords and client certificates, against a real broker that asks for them.
from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from pydantic import SecretStr

from state.store import Store
from stream.fold import FoldStage
from stream.kafka_config import KafkaConfig
from stream.kafka_sink import KafkaSink
from stream.kafka_source import KafkaSource
from stream.sink import Value
from stream.source import SourceUnready
from tests.brokers import Cluster
from tests.stream.waiting import wait_until

EVENT = {"type": "view", "user_id": "u", "item_id": "i", "timestamp": 1_763_649_000_000}
_LOGIN = 'org.apache.kafka.common.security.scram.ScramLoginModule required username="runnel" password="s3cret";'


def write_pem(folder: Path, authority: trustme.CA, name: str) -> tuple[Path, Path]:
    """Files of a certificate for loopback and its key, the key as Kafka wants it (PKCS 8)."""
    issued = authority.issue_cert("127.0.0.1", common_name=name)
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    pkcs8 = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / f"{name}.key").write_bytes(key.private_bytes(*pkcs8))
    (folder / f"{name}.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    return folder / f"{name}.pem", folder / f"{name}.key"


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return made


def tls(folder: Path, authority: trustme.CA, protocol: str) -> dict[str, str]:
    """Properties of a broker that speaks TLS."""
    certificate, key = write_pem(folder, authority, "broker")
    (folder / "broker-store.pem").write_bytes(key.read_bytes() + certificate.read_bytes())
    return {
        "listener.security.protocol.map": f"CONTROLLER:PLAINTEXT,CLIENTS:{protocol}",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(folder / "broker-store.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(folder / "ca.pem"),
    }


@pytest.fixture
def with_passwords(tmp_path: Path, authority: trustme.CA) -> Iterator[Cluster]:
    properties = tls(tmp_path, authority, "SASL_SSL") | {
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
        "listener.name.clients.scram-sha-512.sasl.jaas.config": _LOGIN,
    }
    user = ("--add-scram", "SCRAM-SHA-512=[name=runnel,password=s3cret]")
    cluster = Cluster(tmp_path / "kafka", 1, properties, user)
    yield cluster
    cluster.close()


@pytest.fixture
def with_certificates(tmp_path: Path, authority: trustme.CA) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path / "kafka", 1, tls(tmp_path, authority, "SSL") | {"ssl.client.auth": "required"})
    yield cluster
    cluster.close()


def carries_an_event(config: KafkaConfig, path: Path) -> bool:
    """From a sink to a folded record."""

    async def send() -> None:
        sink = KafkaSink(config, lambda: 1)
        await sink.append(Value(json.dumps(EVENT).encode(), "u"))
        sink.close()

    asyncio.run(send())
    with Store(path, "fold", writer=True) as store:
        source = KafkaSource(config)
        stage = FoldStage(store, source)
        wait_until(lambda: stage.step(0.1).num_messages == 1)
        source.close()
    return True


def test_a_password_from_a_file_over_tls(with_passwords: Cluster, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret\n")
    file = tmp_path / "password"
    config = with_passwords.config(
        security="SASL_SSL", username="runnel", password_file=file, ca_file=tmp_path / "ca.pem"
    )
    assert carries_an_event(config, tmp_path / "fold")
    wrong = replace(config, password_file=None, password=SecretStr("wrong"), client={"bootstrap_timeout_ms": 3_000})
    with pytest.raises(SourceUnready) as refused:
        KafkaSource(wrong)
    assert "wrong" not in str(refused.value)
    with pytest.raises(SourceUnready):
        KafkaSource(replace(wrong, security="PLAINTEXT"))


def test_a_client_certificate_over_tls(with_certificates: Cluster, tmp_path: Path, authority: trustme.CA) -> None:
    certificate, key = write_pem(tmp_path, authority, "runnel")
    ca_file = tmp_path / "ca.pem"
    config = with_certificates.config(security="SSL", ca_file=ca_file, certificate_file=certificate, key_file=key)
    assert carries_an_event(config, tmp_path / "fold")
    with pytest.raises(SourceUnready):
        KafkaSource(replace(config, certificate_file=None, key_file=None, client={"bootstrap_timeout_ms": 3_000}))
