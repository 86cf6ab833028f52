# Readiness: what has ended is said at once, with real processes and SIGKILL.
from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from models.base import Model
from serving.metrics import ServingMetrics
from serving.service import Service, ServiceConfig, open_service
from serving.stages import Stages
from serving.versions import VersionsConfig
from state.lock import take_lock
from state.signals import SignalTable
from state.view import View
from stream.log import EventLog
from stream.log_sink import LogSink
from tests.serving.helpers import NOW, Client, open_loop, problem, view, wait_until

ROOT = Path(__file__).parents[2]


def start_fold(home: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "runnel", "fold", "--home", str(home)], cwd=ROOT)


def test_a_killed_stage_is_told_by_readiness_metrics_and_log_and_so_is_its_return(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "runnel.serving")
    stage = start_fold(tmp_path)
    service = open_service(
        ServiceConfig(tmp_path, stages=("fold",), versions=VersionsConfig(retry_seconds=0.02, stages_seconds=0.02))
    )
    client = Client(service)
    try:
        wait_until(lambda: client.get("/readyz").status_code == 200, "the stage has made its store", 60)
        assert client.get("/readyz").json() == {"status": "ready", "model_version": 0, "stages": {"fold": "running"}}
        wait_until(lambda: 'stage_up{stage="fold"} 1.0' in client.get("/metrics").text, "metrics say so")
        stage.kill()
        stage.wait()
        assert client.get("/readyz").json()["status"] == "degraded"
        assert client.get("/readyz").json()["stages"] == {"fold": "dead"}
        assert client.recommend("u")["items"] == []  # what there is goes on answering
        wait_until(lambda: 'stage_up{stage="fold"} 0.0' in client.get("/metrics").text, "metrics say so")
        assert "the fold stage has ended" in caplog.text
        stage = start_fold(tmp_path)
        wait_until(lambda: client.get("/readyz").json()["status"] == "ready", "the stage is back", 60)
        wait_until(lambda: "the fold stage runs again" in caplog.text, "the log says so")
    finally:
        stage.kill()
        stage.wait()
        client.close()
        service.close()


def test_a_stage_that_waits_for_its_store_is_not_told_dead(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "runnel.serving")
    stages = Stages(tmp_path, ("fold",), ServingMetrics())
    (tmp_path / "fold").mkdir()
    (tmp_path / "run" / "metrics").mkdir(parents=True)
    store, slot = (take_lock(tmp_path / path) for path in ("fold/writer.lock", "run/metrics/fold-0.lock"))
    assert store is not None
    assert slot is not None
    for held, state in ((None, "running"), (store, "waiting"), (slot, "dead")):
        if held is not None:
            os.close(held)
        assert stages.look() == {"fold": state}
        stages.watch()
    assert "the fold stage waits, and its log tells for what" in caplog.text
    assert "the fold stage has ended" in caplog.text


def test_a_replica_whose_writing_process_has_ended_is_neither_alive_nor_ready(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log")
    nothing: View[Model] = View(tmp_path / "fold", tmp_path / "learn", lambda _: {})
    sink = LogSink(log, lambda: NOW)
    service = Service(ServiceConfig(tmp_path), nothing, sink, lambda: NOW, SignalTable())
    client = Client(service)
    try:
        assert client.get("/healthz").status_code == 200
        os.kill(sink.writer_pid, signal.SIGKILL)  # it has not answered yet: as one that cannot run
        client.post("/v1/events", view("u", "a"))
        wait_until(lambda: client.get("/healthz").status_code == 503, "the end of the process shows")
        response = client.post("/v1/events", view("u", "a"))
        assert response.status_code == 503  # what was not written is not acknowledged
        assert "writes events" in str(problem(client.get("/readyz"))["detail"])
        with pytest.raises(RuntimeError, match="writes events"):
            service.check()
    finally:
        client.close()
        service.close()
        log.close()


def test_a_replica_that_no_longer_follows_is_not_ready(tmp_path: Path) -> None:
    with open_loop(tmp_path) as loop:
        loop.settle()
        assert loop.client.get("/readyz").json()["stages"] == {"fold": "running", "learn": "running"}
        loop.service.versions.close()
        response = loop.client.get("/readyz")
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        assert "follows new versions" in str(problem(response)["detail"])


def test_without_learning_no_learn_stage_is_expected(tmp_path: Path) -> None:
    config = ServiceConfig(tmp_path, stages=("fold",), versions=VersionsConfig(refresh_seconds=0.005))
    with open_loop(tmp_path, config) as loop:
        loop.settle()
        assert loop.client.get("/readyz").json()["stages"] == {"fold": "running"}
