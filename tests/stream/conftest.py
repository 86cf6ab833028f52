# The stores of both stages, open for writing.
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from state.store import Store


@pytest.fixture
def folded(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "fold", "fold", writer=True) as store:
        yield store


@pytest.fixture
def learned(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "learn", "learn", writer=True) as store:
        yield store
