# Breaks a copy of the code in named ways and shows that the suite notices: python tests/mutants.py
from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
CHAOS = "tests/chaos/test_short_form.py::test_after_kills_at_random_instants_all_is_as_if_there_had_been_none"
KAFKA = "tests/chaos/test_short_form_kafka.py::test_after_kills_of_everything_all_is_as_if_there_had_been_none"
FOLD = (
    f"{CHAOS}[stages]",
    KAFKA,
    "tests/stream/test_fold.py::test_a_failed_commit_leaves_the_store_at_the_version_before",
)
LEARN = (
    f"{CHAOS}[stages]",
    KAFKA,
    "tests/stream/test_learn.py::test_a_failed_commit_is_learned_again_as_if_it_had_not_been",
)
COPIED = ("models", "state", "stream", "serving", "commands", "tests", "pyproject.toml", "runnel.py")


class Mutant(NamedTuple):
    """One break: in `file`, `before` (found there once) becomes `after`; `tests` must fail then, and pass without."""

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]


MUTANTS = (
    Mutant(
        "offsets committed before state",
        "stream/fold.py",
        "        with self._store.write() as txn:\n            # 4.",
        "        with self._store.write() as txn:\n"
        "            put_offsets(txn, self._store, offsets)\n"
        "        with self._store.write() as txn:\n            # 4.",
        FOLD,
    ),
    Mutant(
        "state committed before offsets",
        "stream/fold.py",
        "            # 6.",
        "        with self._store.write() as txn:\n            # 6.",
        FOLD,
    ),
    Mutant(
        "learned positions committed before state",
        "stream/learn.py",
        "        with self._store.write() as txn:\n            # 4.",
        "        with self._store.write() as txn:\n"
        '            self._store.put_meta(txn, "fold_versions", fold_versions)\n'
        "        with self._store.write() as txn:\n            # 4.",
        LEARN,
    ),
    Mutant(
        "models committed before learned positions",
        "stream/learn.py",
        "            # 7.",
        "        with self._store.write() as txn:\n            # 7.",
        LEARN,
    ),
    Mutant(
        "acknowledged before written",
        "stream/log_writer.py",
        "        offset = log.append([value.data for piece in group for value in piece.values], received_at)",
        "        offset = log.end_offset()\n"
        "        values = [value.data for piece in group for value in piece.values]\n"
        "        __import__('threading').Timer(0.02, log.append, (values, received_at)).start()",
        (f"{CHAOS}[writers]",),
    ),
    Mutant(
        "the set rule off",
        "state/record.py",
        "if at < len(rows) and rows[at][: self.key_bytes] == key:",
        "if at > len(rows):",
        (
            "tests/state/test_record.py::test_any_permutation_and_duplication_gives_the_same_bytes",
            "tests/stream/test_fold.py::test_a_repeated_event_is_counted_and_changes_nothing",
        ),
    ),
    Mutant(
        "a delta applied without its version guard",
        "state/follower.py",
        "if version > self.version(name)]",
        "if version > 0]",
        ("tests/state/test_follower.py::test_a_delta_that_comes_twice_is_passed_over",),
    ),
    Mutant(
        "a follower's positions committed before what they tell",
        "state/follower.py",
        "        with self._store.write() as txn:\n            self._records.flush(txn)  # 1",
        "        with self._store.write() as txn:\n"
        '            self._store.put_meta(txn, "positions", self._positions | {name: new[-1][0]})\n'
        "        with self._store.write() as txn:\n            self._records.flush(txn)  # 1",
        (KAFKA,),
    ),
    Mutant(
        "a version of which a part is on the topic taken for shipped",
        "stream/shipper.py",
        "last.version if whole else",
        "last.version if last else",
        ("tests/stream/test_delta_topics.py::test_a_large_delta_whose_shipper_was_killed_within_it_comes_whole",),
    ),
    Mutant(
        "learned numbers committed unseen",
        "stream/learn.py",
        "            self._guard(changes, losses)\n",
        "",
        ("tests/stream/test_guard.py::test_two_models_poisoned_in_one_step_are_both_held",),
    ),
    Mutant(
        "rows of expired items stay",
        "stream/learn.py",
        "                    table.remove(items)\n",
        "                    pass\n",
        ("tests/stream/test_admission.py::test_tables_stay_within_the_bound_and_every_home_holds_the_same",),
    ),
    Mutant(
        "a replaced model told as if it had changed",
        "state/tables.py",
        "    delta.replaces = True\n",
        "",
        ("tests/state/test_replace.py::test_a_replaced_model_is_all_that_store_and_followers_hold",),
    ),
    Mutant(
        "messages below the stored offset folded again",
        "stream/fold.py",
        "if message.offset < max(",
        "if message.offset < 0 * max(",
        (
            "tests/stream/test_fold.py::test_messages_below_the_stored_offset_are_skipped_even_if_the_source_brings_them",
        ),
    ),
)


def run(tests: tuple[str, ...], folder: Path) -> dict[str, bool]:
    """Test → whether it passed, in a copy of the project; RuntimeError where it could not run."""
    passed = {}
    for test in tests:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode not in (0, 1):  # of pytest: all passed, some failed
            raise RuntimeError(f"{test} did not run:\n{done.stdout}{done.stderr}")
        passed[test] = done.returncode == 0
    return passed


def broken_copy(mutant: Mutant, folder: Path) -> None:
    """Copy the project and break it; ValueError where the code no longer holds what the mutant changes."""
    for name in COPIED:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, target)
    file = folder / mutant.file
    text = file.read_text()
    if text.count(mutant.before) != 1:
        raise ValueError(
            f"mutant {mutant.name!r}: {mutant.file} holds {mutant.before!r} {text.count(mutant.before)} times"
        )
    file.write_text(text.replace(mutant.before, mutant.after))


def main() -> int:
    """Print a table; the number of mutants that survived, or of tests that fail without any."""
    console = Console()
    table = Table("mutant", "file", "test", "whole", "broken", title="Mutants: each must make its tests fail")
    wrong = 0
    for mutant in MUTANTS:
        console.print(f"{mutant.name} …", style="dim")
        with tempfile.TemporaryDirectory(prefix="runnel-mutant-") as folder:
            broken_copy(mutant, Path(folder))
            whole, broken = run(mutant.tests, ROOT), run(mutant.tests, Path(folder))
        for test in mutant.tests:
            wrong += (not whole[test]) + broken[test]
            verdicts = "passes" if whole[test] else "FAILS", "SURVIVES" if broken[test] else "killed"
            table.add_row(mutant.name, mutant.file, test.split("::")[1], *verdicts)
    console.print(table)
    return wrong


if __name__ == "__main__":
    sys.exit(min(main(), 1))
