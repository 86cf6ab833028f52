# Whether an LMDB file is sound: LMDB's own verification, less the one thing that it calls wrong and that is not.
from __future__ import annotations

import re
from pathlib import Path

from lmdb.verify import verify

# Deleting a key with many values (a user who is forgotten) leaves the page counters of its database too high: LMDB 0.9
# does not take back the pages of the values' own tree. They are statistics: nothing allocates or reads by them.
_COUNT = re.compile(r"walked (\d+) (?:branch|leaf) pages(?: \((\d+) with dup sub-trees\))?, record says (\d+)$")
_EMPTY = "is empty (no root) but has nonzero counters"


def unsound(folder: Path) -> list[str]:
    """What is structurally wrong with the environment in `folder`, empty when all is well; nobody may write to it."""
    findings = [str(finding) for finding in verify(str(folder))]  # type: ignore[no-untyped-call]
    return [finding for finding in findings if not _is_overcount(finding)]


def _is_overcount(finding: str) -> bool:
    found = _COUNT.search(finding)
    if found is None:
        return finding.endswith(_EMPTY)
    walked, with_values, recorded = found.groups()
    return int(recorded) > int(with_values or walked)
