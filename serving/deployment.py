# The Ray Serve deployment: one replica is one process with its own service and app.
from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING

from fastapi import FastAPI
from ray import serve
from ray.serve import Application, Deployment
from ray.serve.schema import LoggingConfig

from serving.app import build_app
from serving.logs import set_up_logs
from serving.service import ServiceConfig, open_service
from state.slots import Slot

if TYPE_CHECKING:
    from serving.cluster import ClusterConfig


@serve.ingress()
class Replica:
    """Builds its app late, when the service is there; the app runs on the replica's own event loop."""

    def __init__(self, config: ServiceConfig) -> None:
        slot = Slot(config.home / "run" / "metrics", "serve")
        set_up_logs(slot.name, config.home / "run" / f"{slot.name}.log")
        self._service = open_service(config, slot)
        # A thread that takes over a version computes for some milliseconds; a request need not wait 5 for its turn each
        # time it comes back from a product. While learning, the slowest took a third as long.
        sys.setswitchinterval(0.0005)
        gc.freeze()  # what was imported stays: a full collection looked through it for 0.1 s between two requests

    async def __serve_build_asgi_app__(self) -> FastAPI:
        return build_app(self._service)

    def check_health(self) -> None:
        """Ray Serve's question; what this raises makes it replace the replica."""
        self._service.check()

    def __del__(self) -> None:
        self._service.close()


def application(cluster: ClusterConfig, service: ServiceConfig, replica: type = Replica) -> Application:
    """The application that `serve.run` takes; its replicas are made of `service`."""
    configure = serve.deployment(
        name="api",
        num_replicas=cluster.num_replicas,
        max_ongoing_requests=cluster.max_ongoing_requests,
        ray_actor_options={"num_cpus": 0},  # the machine's cores are shared with the stages; Ray need not count them
        health_check_period_s=1,
        graceful_shutdown_timeout_s=5,
        # Ray's line for each call took a tenth of an empty one's time, and named users; /metrics count calls.
        logging_config=LoggingConfig(log_level="WARNING"),
    )
    deployment: Deployment = configure(replica)
    return deployment.bind(service)
