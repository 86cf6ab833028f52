# A broker's log directory is made for whatever identity its cluster drew.
from __future__ import annotations

from pathlib import Path

from commands.kafka_local import Node, prepare_node


def test_an_identity_may_begin_with_a_dash(tmp_path: Path) -> None:
    identity = "-" + "x" * 21
    (tmp_path / "cluster.id").write_text(identity)
    node = Node(1, 9092, 9093)
    prepare_node(tmp_path, node, [node])
    assert f"cluster.id={identity}" in (tmp_path / "node-1" / "data" / "meta.properties").read_text().split()
