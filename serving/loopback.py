# Runs in every Ray worker before anything else: what Ray and HAProxy would open to all interfaces stays on loopback.
from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

API_HOST = "RUNNEL_SERVE_API_HOST"  # the one address that may be reached from outside
UNAVAILABLE = "RUNNEL_SERVE_UNAVAILABLE"  # file HAProxy answers with while no replica is up
RULES = "RUNNEL_SERVE_RULES"  # file of rules for every request

_TEMPLATE_CHANGES = (
    ("bind :{{ config.metrics_port }}", "bind 127.0.0.1:{{ config.metrics_port }}"),
    ("bind *:{{ config.stats_port }}", "bind 127.0.0.1:{{ config.stats_port }}"),
    ("bind {{ config.frontend_host }}:{{ config.frontend_port }}", "bind {api_host}:{{ config.frontend_port }}"),
    # Ray turns 502, 503 and 504 into a bare 500; a client is better told to come back.
    ("errorfile 502 {{ config.error_file_path }}", "errorfile 502 {unavailable}"),
    ("errorfile 503 {{ config.error_file_path }}", "errorfile 503 {unavailable}"),
    ("errorfile 504 {{ config.error_file_path }}", "errorfile 504 {unavailable}"),
    ("    # Static routing based on path prefixes", "{rules}    # Static routing based on path prefixes"),
)


def setup_worker() -> None:
    """Ray's `worker_process_setup_hook`: changes two private places of Ray 2.60 that no setting reaches.

    A replica's inner gRPC server asks for `[::]:0`, and HAProxy's template binds statistics, metrics and (with the
    replicas) the API. Raises RuntimeError where Ray no longer looks like that, rather than listen to the world.
    """
    from ray._common import tls_utils

    add_port: Callable[[object, str], int] = tls_utils.add_port_to_grpc_server

    def add_loopback_port(server: object, address: str) -> int:
        return add_port(server, address.replace("[::]:", "127.0.0.1:"))

    tls_utils.add_port_to_grpc_server = add_loopback_port  # before ray.serve imports the name
    if API_HOST in os.environ:
        _rewrite_template(os.environ[API_HOST], os.environ[UNAVAILABLE], Path(os.environ[RULES]).read_text())


def _rewrite_template(api_host: str, unavailable: str, rules: str) -> None:
    from ray.serve._private import haproxy_templates

    template: str = haproxy_templates.HAPROXY_CONFIG_TEMPLATE
    for old, new in _TEMPLATE_CHANGES:
        if old not in template:
            raise RuntimeError(f"HAProxy's template in this version of Ray has no line {old!r}")
        for place, value in (("{api_host}", api_host), ("{unavailable}", unavailable), ("{rules}", rules)):
            new = new.replace(place, value)
        template = template.replace(old, new)
    haproxy_templates.HAPROXY_CONFIG_TEMPLATE = template
