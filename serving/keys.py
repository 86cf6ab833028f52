# API keys: who may do what. Kept as hashes, compared in constant time.
from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

RIGHTS = ("events", "recommendations", "administration", "metrics")
ALL_RIGHTS = frozenset(RIGHTS)
_DIGEST = re.compile(r"[0-9a-f]{64}")


class KeysInvalid(ValueError):  # noqa: N818  named for what is so
    """A line of the keys cannot be read; names where it stands, never what it holds."""


class KeysMissing(ValueError):  # noqa: N818
    """The API would be open to other machines without keys; says how to make one."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key as the service knows it. `digest` is the SHA-256 of the key in hex: a key is 256 random bits, so that a
    hash without salt or stretching gives nothing away."""

    name: str
    rights: frozenset[str]
    digest: str

    def line(self) -> str:
        """The key's line in a keys file."""
        return f"{self.name} {','.join(right for right in RIGHTS if right in self.rights)} {self.digest}"


def hash_key(secret: str) -> str:
    """SHA-256 of a key, in hex."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def parse_rights(text: str) -> frozenset[str]:
    """Rights separated by commas. Raises ValueError listing the names there are."""
    rights = frozenset(filter(None, text.split(",")))
    if not rights or rights - ALL_RIGHTS:
        raise ValueError(f"rights are one or more of {', '.join(RIGHTS)}, separated by commas; not {text!r}")
    return rights


def parse_keys(text: str, source: str) -> tuple[ApiKey, ...]:
    """Keys of a text with one `NAME RIGHTS SHA256` a line (`;` ends a line too); `#` begins a comment.

    Raises KeysInvalid naming `source` and line.
    """
    keys = []
    for number, line in enumerate(text.replace(";", "\n").splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        if len(words) != 3 or not _DIGEST.fullmatch(words[2]):
            raise KeysInvalid(f"{source}, line {number}: a line is NAME RIGHTS SHA256, as `runnel keys` prints it")
        try:
            keys.append(ApiKey(words[0], parse_rights(words[1]), words[2]))
        except ValueError:  # its text would quote the line
            raise KeysInvalid(f"{source}, line {number}: rights are of {', '.join(RIGHTS)}") from None
    return tuple(keys)


def find_key(keys: Sequence[ApiKey], secret: str) -> ApiKey | None:
    """The key with this secret; takes as long whichever it is, and where it is none."""
    digest, found = hash_key(secret), None
    for key in keys:
        if hmac.compare_digest(key.digest, digest):
            found = key
    return found


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def require_keys(host: str, keys: Sequence[ApiKey]) -> None:
    """Raise KeysMissing where other machines could reach the API and nobody needs a key."""
    if not keys and not is_loopback(host):
        raise KeysMissing(
            f"host = {host!r} opens the API to other machines, so it needs API keys: `runnel keys NAME >> keys.txt` "
            "makes one, and RUNNEL_SERVE__KEYS_FILE=keys.txt names the file"
        )
