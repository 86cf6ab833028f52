# The documentation names what exists: files in the README's tree, commands in its table, versions in the change log.
from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

from runnel import app

ROOT = Path(__file__).parents[1]
PACKAGES = ("stream", "models", "state", "serving", "commands", "benchmarks")
SOURCES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_file_says_what_it_is_in_its_first_line(file: Path) -> None:
    first_line = file.read_text().split("\n", 1)[0]
    assert first_line.startswith("# ")
    assert len(first_line) > 20


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_file_outgrows_300_lines(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 300


def test_the_readme_tree_names_every_source_file_once_and_no_other() -> None:
    named = sorted(re.findall(r"^ +([a-z0-9_]+\.py) ", README, flags=re.MULTILINE))
    assert named == sorted(file.name for file in [*SOURCES, ROOT / "runnel.py"] if file.name != "__init__.py")


def test_every_command_is_in_the_readme() -> None:
    commands = set(getattr(get_command(app), "commands"))  # noqa: B009 - a click Group; typer's type does not say so
    assert commands
    assert [name for name in sorted(commands) if f"`runnel {name}" not in README] == []


def test_the_change_log_speaks_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_files_that_a_page_links_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
