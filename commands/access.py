# How commands of this machine reach an API that asks for keys: with RUNNEL_API_KEY, or the home's own key.
from __future__ import annotations

import os
import secrets
from pathlib import Path

from commands.settings import Settings
from serving.keys import ALL_RIGHTS, ApiKey, hash_key, is_loopback


def client_headers(settings: Settings) -> dict[str, str]:
    """Headers of every call to the API; none where no key is known, which suits an API without keys. The home's key is
    sent to this machine alone."""
    secret = settings.api_key.get_secret_value()
    if not secret and (is_loopback(settings.host) or settings.host in ("0.0.0.0", "::")):
        path = _path(settings.home)
        secret = path.read_text().strip() if path.exists() else ""
    return {"X-API-Key": secret} if secret else {}


def home_key(home: Path) -> ApiKey:
    """The home's own key, with all rights; made where there is none. Its file is for whoever owns the home, who could
    read and write the stores as well."""
    path = _path(home)
    if not path.exists() or not path.read_text().strip():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".new")
        draft.unlink(missing_ok=True)
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
        draft.replace(path)
    return ApiKey("this-home", ALL_RIGHTS, hash_key(path.read_text().strip()))


def _path(home: Path) -> Path:
    return home / "run" / "api.key"
