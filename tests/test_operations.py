# docs/operations.md and monitoring/ tell of what there is: every metric, every alarm, a board that Grafana can load.
from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import Metric

from serving.home_metrics import HomeMetrics
from serving.metrics import ServingMetrics
from serving.proxy_metrics import ProxyMetrics
from state.slots import STARTS
from state.view import View
from stream.log import EventLog
from stream.metrics import StageMetrics

_ROOT = Path(__file__).resolve().parents[1]
_MONITORING = _ROOT / "monitoring"
_PAGE = (_ROOT / "docs" / "operations.md").read_text()
_ROW = re.compile(r"^\| `(runnel_\w+)` \| (\w+) \| ([\w, ]*) ?\| \S", re.MULTILINE)


def told(home: Path) -> dict[str, str]:
    """Name → type of every metric that a home can tell."""
    log = EventLog(home / "log")
    facts = HomeMetrics(home, View(home / "fold", home / "learn", lambda *_: {}), log, lambda: 0)
    stages = StageMetrics("fold").registry, StageMetrics("learn").registry
    registries = (*stages, ServingMetrics(facts=facts, proxy=ProxyMetrics(home / "no proxy")))
    found = {name_of(metric): metric.type for registry in registries for metric in registry.collect()}
    log.close()
    return found | {f"{STARTS}_total": "counter"}


def name_of(metric: Metric) -> str:
    return f"{metric.name}_total" if metric.type == "counter" else str(metric.name)


def test_the_operations_page_names_every_metric_with_its_type_and_no_other(tmp_path: Path) -> None:
    documented = {name: kind for name, kind, _ in _ROW.findall(_PAGE)}
    assert documented == told(tmp_path)


def rules() -> list[dict[str, object]]:
    loaded = yaml.safe_load((_MONITORING / "alerts.yml").read_text())
    return [rule for group in loaded["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, object]]:
    board = json.loads((_MONITORING / "grafana.json").read_text())
    found: list[dict[str, object]] = board["panels"]
    return found


def expressions(panel: dict[str, object]) -> list[str]:
    targets = panel.get("targets", [])
    assert isinstance(targets, list)
    return [target["expr"] for target in targets]


def unknown(expression: str, known: dict[str, str]) -> set[str]:
    """Metrics of an expression that nothing tells: samples of a histogram end in _bucket, _sum or _count."""
    samples = {
        f"{name}_{end}" for name, kind in known.items() if kind == "histogram" for end in ("bucket", "sum", "count")
    }
    plain = {name for name, kind in known.items() if kind != "histogram"}
    return set(re.findall(r"\brunnel_\w+", re.sub(r'"[^"]*"', "", expression))) - samples - plain


def test_every_alarm_is_whole_and_asks_for_metrics_that_there_are(tmp_path: Path) -> None:
    known = told(tmp_path)
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names)) > 15
    for rule in rules():
        assert rule.keys() - {"for"} == {"alert", "expr", "labels", "annotations"}
        assert rule["labels"] in ({"severity": "critical"}, {"severity": "warning"})
        assert unknown(str(rule["expr"]), known) == set(), rule["alert"]


def test_every_alarm_has_a_section_that_tells_what_to_do_and_no_other_has() -> None:
    sections = dict(re.findall(r"^### (Runnel\w+)\n(.+)$", _PAGE, re.MULTILINE))
    assert sections.keys() == {rule["alert"] for rule in rules()}


@pytest.mark.parametrize("arguments", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts.test.yml")])
def test_prometheus_accepts_the_alarms_and_they_go_off_when_they_should(arguments: tuple[str, ...]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: package prometheus)")
    checked = subprocess.run([promtool, *arguments], cwd=_MONITORING, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_board_loads_anywhere_and_asks_for_metrics_that_there_are(tmp_path: Path) -> None:
    known = told(tmp_path)
    board = json.loads((_MONITORING / "grafana.json").read_text())
    assert (board["uid"], board["id"]) == ("runnel", None)
    assert board["templating"]["list"][0]["type"] == "datasource"
    shown = [expression for panel in panels() for expression in expressions(panel)]
    assert all(panel["datasource"] == "${datasource}" for panel in panels() if panel["type"] != "row")
    assert [expression for expression in shown if unknown(expression, known)] == []
    bases = {name for name in known if any(name in expression for expression in shown)}
    assert bases == known.keys()  # what is measured is shown


def test_the_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        assert isinstance(place, dict)
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
