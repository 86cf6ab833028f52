# What HAProxy is told beyond Ray's own template: answers that are problem documents, and when to give them.
from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from serving.admission import BATCH_BYTES, SLATE_PATHS, AdmissionConfig

# Ray reads these of every request and fails where they are not UTF-8; no client of ours has a use for them.
_RAY_HEADERS = (
    "x-request-id",
    "x-request-timeout-seconds",
    "x-request-disconnect-disabled",
    "x-session-id",
    "serve_multiplexed_model_id",
    "serve-multiplexed-model-id",
)


@dataclass(frozen=True, slots=True)
class HAProxyFiles:
    """What the template refers to."""

    unavailable: Path  # the answer while no replica is up
    rules: Path  # lines of the frontend


def write_haproxy_files(folder: Path, bounds: AdmissionConfig, num_replicas: int) -> HAProxyFiles:
    """Write the files of one home. HAProxy bounds the calls in flight to all replicas as each of them does: a refusal
    costs it about 20 us, a replica ten times as much, and at ten times the rate that counts."""
    files = HAProxyFiles(folder / "unavailable.http", folder / "rules.cfg")
    body = _problem(503, "Service Unavailable", "no replica is up at the moment; try again")
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n"
        f"Retry-After: 1\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    files.unavailable.write_text(head + body, newline="")
    overloaded = folder / "overloaded.json"
    overloaded.write_text(
        _problem(429, "Too Many Requests", "too much at once: too many calls of this kind are in flight; try again")
    )
    limits = {"slates": bounds.max_slates, "batches": bounds.max_batches, "others": bounds.max_others}
    files.rules.write_text(_rules(overloaded, {kind: limit * num_replicas for kind, limit in limits.items()}))
    return files


def _rules(overloaded: Path, limits: Mapping[str, int]) -> str:
    answer = f"return status 429 content-type application/problem+json file {overloaded} hdr Retry-After 1"
    kinds = {
        "slates": "runnel_slate",
        "batches": "runnel_call !runnel_slate runnel_batch",
        "others": "runnel_call !runnel_slate !runnel_batch",
    }
    fulls = [f"{kinds[kind]} {{ sc0_conn_cur gt {limit} }}" for kind, limit in limits.items()]
    return "".join(
        f"    {line}\n"
        for line in (
            "http-request set-log-level silent",  # nobody reads it, and paths name users
            *(f"http-request del-header {header}" for header in _RAY_HEADERS),
            # calls in flight by kind: a table of three rows, which counts a call until its answer has gone out
            "stick-table type string len 16 size 8 store conn_cur,gpc0",  # gpc0: those that were refused
            f"acl runnel_slate path {' '.join(SLATE_PATHS)}",
            "acl runnel_call path_beg /v1/",
            f"acl runnel_batch req.hdr_val(content-length) gt {BATCH_BYTES}",
            "acl runnel_batch req.hdr(transfer-encoding) -m found",  # either of the two
            *(f"http-request track-sc0 str({kind}) if {which}" for kind, which in kinds.items()),
            *(f"http-request {act} if {full}" for full in fulls for act in ("sc-inc-gpc0(0)", answer)),
        )
    )


def _problem(status: int, title: str, detail: str) -> str:
    return json.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail})
