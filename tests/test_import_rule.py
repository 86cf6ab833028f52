# The import rule of the layout: models and state import no sibling, stream and serving only what they may.
from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"models", "state", "stream", "serving", "commands"}
# What serving may take of stream: the event schema and the sinks.
SERVING_MAY_IMPORT = {"stream.event", "stream.entry", "stream.sink", "stream.log", "stream.log_sink"}
SERVING_MAY_IMPORT |= {"stream.kafka_sink", "stream.kafka_config"}


def imported_modules(file: Path) -> set[str]:
    """Every module that a file names in an import, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names


def siblings(package: str) -> set[tuple[str, str]]:
    """(file, module) for every import of another package of ours."""
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"{package} has no files"
    return {
        (str(file.relative_to(ROOT)), module)
        for file in files
        for module in imported_modules(file)
        if module.split(".")[0] in (PACKAGES | {"runnel", "tests", "benchmarks"}) - {package}
    }


@pytest.mark.parametrize(
    ("package", "allowed"),
    [("models", set()), ("state", set()), ("stream", {"models", "state"})],
)
def test_a_package_imports_only_what_lies_below_it(package: str, allowed: set[str]) -> None:
    assert [pair for pair in siblings(package) if pair[1].split(".")[0] not in allowed] == []


def test_serving_imports_of_stream_only_the_event_schema_and_the_sinks() -> None:
    wrong = [
        pair
        for pair in siblings("serving")
        if pair[1].split(".")[0] not in {"models", "state"} and pair[1] not in SERVING_MAY_IMPORT
    ]
    assert wrong == []


def test_no_package_uses_relative_imports() -> None:
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                assert not (isinstance(node, ast.ImportFrom) and node.level), f"{file} imports relatively"


def test_nothing_reads_a_pickle() -> None:
    readers = {"pickle", "shelve", "marshal", "dill", "cloudpickle", "joblib"}
    calls = ("torch.load", "np.load(", "allow_pickle")
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            assert not {name.split(".")[0] for name in imported_modules(file)} & readers, file
            assert not any(call in file.read_text() for call in calls), file
