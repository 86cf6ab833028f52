# The state of a home: from its files, its processes, and its API where that answers.
from __future__ import annotations

from pathlib import Path
from time import sleep, time

import httpx

from commands.access import client_headers
from commands.claim import holder, read_url
from commands.errors import CommandError
from commands.home_numbers import Numbers, read_numbers
from commands.processes import read_note
from commands.read_log import read_wrongs
from commands.settings import Settings
from state.lock import is_held
from state.meta import get_held, get_rebuilds
from state.store import Store, StoreError

_STAGES = ("fold", "learn", "follow")
_RATE_SECONDS = 1.0  # between the two looks that rates are measured with
_NUM_WRONGS = 5


def read_status(settings: Settings) -> dict[str, object]:
    """What runs, versions, lags, ages, rates, models, disk and the newest wrongs.

    CommandError where nothing runs on the home and nothing is stored in it.
    """
    home, note = settings.home, holder(settings.home)
    stages = {stage: is_held(home / stage / "writer.lock") for stage in _STAGES if (home / stage).is_dir()}
    if note is None and not stages:
        demo = home / "demo"
        hint = f" (a demo does: --home {demo})" if holder(demo) is not None else ""
        raise CommandError(f"nothing runs on {home}{hint}: start it with `runnel up`, or name another --home")
    has_log = not settings.kafka.servers
    before = read_numbers(home, has_log)
    if note is not None:
        sleep(_RATE_SECONDS)
    numbers = read_numbers(home, has_log)
    return {
        "home": str(home),
        "running": note is not None,
        "up_seconds": None if note is None else round(time() - note.started_at),
        **(_ask_api(settings) if note is not None else {"ready": False, "api": "not running"}),
        "model_version": _whole(numbers.value("runnel_stage_version", stage="learn")),
        "events_total": _num_events(numbers),
        "events": {kind: int(count) for kind, count in numbers.by("outcome", "runnel_events_total").items()},
        "per_second": _rates(before, numbers) if note is not None else {},
        "stages": {stage: _stage(numbers, stage, runs) for stage, runs in stages.items()},
        "replicas": _replicas(numbers),
        "models": _models(home, numbers),
        "disk_bytes": {part: int(size) for part, size in numbers.by("part", "runnel_disk_bytes").items()},
        "disk_free_bytes": _whole(numbers.value("runnel_disk_free_bytes")),
        "processes": _processes(home / "run"),
        "wrongs": read_wrongs(home / "run", _NUM_WRONGS),
    }


def _ask_api(settings: Settings) -> dict[str, object]:
    try:
        url = read_url(settings.home)
        reply = httpx.get(f"{url}/readyz", headers=client_headers(settings), timeout=5.0)
        api = reply.json()["status"] if reply.is_success else reply.json()["detail"]
        return {"url": url, "ready": reply.is_success, "api": api}
    except (CommandError, httpx.HTTPError, ValueError, KeyError) as error:
        return {"ready": False, "api": f"does not answer: {error}"}


def _num_events(numbers: Numbers) -> int:
    """Events that came in; slates are the servers' own."""
    by_type = numbers.by("type", "runnel_events_total")
    return int(sum(count for kind, count in by_type.items() if kind != "slate"))


def _rates(before: Numbers, after: Numbers) -> dict[str, float]:
    names = {
        "events": "runnel_events_total",
        "learned": "runnel_events_learned_total",
        "calls": "runnel_requests_total",
    }
    change = {what: (after.value(name) or 0) - (before.value(name) or 0) for what, name in names.items()}
    return {what: round(max(0.0, count) / _RATE_SECONDS, 1) for what, count in change.items()}


def _stage(numbers: Numbers, stage: str, runs: bool) -> dict[str, object]:
    stepped_at = numbers.value("runnel_stage_step_timestamp_seconds", stage=stage)
    return {
        "state": "running" if runs else "not running",
        "version": _whole(numbers.value("runnel_stage_version", stage=stage)),
        "lag_messages": _whole(numbers.value("runnel_stage_lag_messages", stage=stage)),
        "lag_seconds": numbers.value("runnel_stage_lag_seconds", stage=stage),
        "step_age_seconds": None if stepped_at is None else round(time() - stepped_at, 1),
        "failures": _whole(numbers.value("runnel_stage_failures_total", stage=stage)),
        "starts": _whole(numbers.value("runnel_process_starts_total", process=f"{stage}-0")),
    }


def _replicas(numbers: Numbers) -> dict[str, dict[str, object]]:
    versions = numbers.by("process", "runnel_model_version")
    times = numbers.by("process", "runnel_model_event_time_seconds")
    starts = numbers.by("process", "runnel_process_starts_total")
    return {
        name: {
            "version": int(version),
            "age_seconds": round(time() - times[name], 1) if times.get(name) else None,
            "starts": int(starts.get(name, 0)),
        }
        for name, version in sorted(versions.items())
    }


def _models(home: Path, numbers: Numbers) -> dict[str, dict[str, object]]:
    hits, loss = numbers.by("model", "runnel_model_hit_ratio"), numbers.by("model", "runnel_model_loss")
    coverage, (held, rebuilds) = numbers.by("model", "runnel_model_coverage_ratio"), _held_and_rebuilt(home)
    return {
        name: {
            "hit_ratio": hits.get(name),
            "coverage": coverage.get(name),
            "loss": loss.get(name),
            "held": held.get(name),
            "rebuild": rebuilds.get(name),
        }
        for name in sorted(numbers.by("model", "runnel_model_held"))
    }


def _held_and_rebuilt(home: Path) -> tuple[dict[str, str], dict[str, str]]:
    try:
        with Store(home / "learn") as store, store.read() as txn:
            return get_held(txn, store), get_rebuilds(txn, store)
    except StoreError:
        return {}, {}


def _processes(run_dir: Path) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    for path in sorted(run_dir.glob("*.pid")):
        note = read_note(path)
        process = note.process() if note else None
        if process is not None:
            memory = process.memory_info().rss // (1 << 20)
            found[path.stem] = {"pid": process.pid, "up_seconds": round(time() - process.create_time()), "mib": memory}
    return found


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
