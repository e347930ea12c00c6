"""Alerts and dashboard: promtool judges the rules, and every name they use is one that /metrics exports."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import yaml

from proxy.app import Headway
from proxy.settings import Settings

from . import tools
from .rendering import only, render

GATEWAY: Final = "gateway"
_METRIC: Final = re.compile(r"\bheadway_[a-z0-9_]+")
_SUFFIX: Final = re.compile(r"_(bucket|sum|count)$")


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rendered PrometheusRule's groups, as promtool reads them."""
    spec = only(render(example=GATEWAY), "PrometheusRule")["spec"]
    path = tmp_path_factory.mktemp("rules") / "alerts.yaml"
    path.write_text(yaml.safe_dump(spec), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    """The rendered dashboard."""
    text = only(render(example=GATEWAY), "ConfigMap", suffix="dashboard")["data"]["headway.json"]
    return dict(json.loads(text))


def promtool(*arguments: str) -> str:
    done = subprocess.run(
        [tools.promtool(), *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_rules_are_valid(rules: Path) -> None:
    """promtool reads every rule and expression."""
    alerts = yaml.safe_load(rules.read_text(encoding="utf-8"))["groups"][0]["rules"]
    assert f"{len(alerts)} rules found" in promtool("check", "rules", str(rules))


def test_every_alert_tells_what_to_do(rules: Path) -> None:
    """Each alert says what is wrong and what to do, with a severity to route by."""
    for alert in yaml.safe_load(rules.read_text(encoding="utf-8"))["groups"][0]["rules"]:
        assert alert["labels"]["severity"] in ("info", "warning", "critical")
        assert alert["annotations"].keys() == {"summary", "action"}


def test_each_alert_fires_and_rests(rules: Path) -> None:
    """`promtool test rules`: every alert fires on its trouble, after its time, and not on health."""
    cases = yaml.safe_load((Path(__file__).parent / "alerts_test.yaml").read_text(encoding="utf-8"))
    tested = {case["alertname"] for test in cases["tests"] for case in test["alert_rule_test"]}
    named = {
        alert["alert"] for alert in yaml.safe_load(rules.read_text(encoding="utf-8"))["groups"][0]["rules"]
    }
    assert tested == named
    path = rules.parent / "alerts_test.yaml"
    path.write_text(yaml.safe_dump(cases | {"rule_files": [str(rules)]}), encoding="utf-8")
    promtool("test", "rules", str(path))


def queries(dashboard: dict[str, Any]) -> list[str]:
    """Every expression of the dashboard, its variables' included."""
    variables = [variable["query"]["query"] for variable in dashboard["templating"]["list"][1:]]
    return variables + [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_dashboard_queries_parse(dashboard: dict[str, Any], tmp_path: Path) -> None:
    """Every panel's expression is PromQL, once Grafana's own variables are filled in."""
    exprs = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    filled = [expr.replace("$__rate_interval", "5m").replace("$namespace", ".*") for expr in exprs]
    recorded = [{"record": f"q:{n}", "expr": expr} for n, expr in enumerate(filled)]
    path = tmp_path / "dashboard.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}), encoding="utf-8")
    assert f"{len(recorded)} rules found" in promtool("check", "rules", str(path))


def test_panels_do_not_overlap(dashboard: dict[str, Any]) -> None:
    """Every panel has a place of its own on the grid, a title and an explanation."""
    taken = [
        (x, y)
        for panel in dashboard["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24
    assert all(panel["title"] and panel["description"] for panel in dashboard["panels"])


async def exported(state: Path) -> str:
    """The full /metrics of a running proxy."""
    settings = Settings(
        engine=("http://127.0.0.1:9",), port=0, admin_port=0, state=str(state), redis="redis://127.0.0.1:9"
    )
    proxy = Headway(settings)
    await proxy.start()
    try:
        url = f"http://127.0.0.1:{proxy.admin_port}/metrics"
        async with aiohttp.ClientSession() as client, client.get(url) as answer:
            return await answer.text()
    finally:
        await proxy.stop()


async def test_every_name_is_exported(rules: Path, dashboard: dict[str, Any], tmp_path: Path) -> None:
    """Alerts and panels query only what a running proxy really exports, labels included."""
    text = await exported(tmp_path)
    names = {_SUFFIX.sub("", name) for name in re.findall(r"^(\w+)", text, re.MULTILINE)}
    exprs = [rule["expr"] for rule in yaml.safe_load(rules.read_text(encoding="utf-8"))["groups"][0]["rules"]]
    used = {_SUFFIX.sub("", name) for expr in [*exprs, *queries(dashboard)] for name in _METRIC.findall(expr)}
    assert used <= names
    for name in ("headway_engine_up", "headway_priority_honoured", "headway_window"):
        assert f'{name}{{engine="' in text
    for outcome in re.findall(r'outcome=~"([^"]+)"', " ".join(exprs)):
        assert all(f'outcome="{value}"' in text for value in outcome.split("|"))
