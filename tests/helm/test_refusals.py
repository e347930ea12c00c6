"""What the chart takes and what it refuses: one clear sentence each, and a schema that knows every value."""

import importlib.util
import json
from typing import Any

import pytest

from .rendering import CHART, IMAGE, STACK, refusal

REFUSALS = [
    (("engine.model=m",), {}, "image.repository is required: no image is published yet"),
    ((IMAGE,), {}, "engine.model is required in mode stack"),
    ((IMAGE, "mode=sidekick"), {}, "'stack', 'inject', 'gateway'"),
    ((IMAGE, "mode=gateway"), {}, "mode gateway needs engines: give gateway.engines"),
    ((IMAGE, "mode=inject", "inject.enginePort=8001"), {}, "the proxy needs a port of its own"),
    ((IMAGE, "mode=inject"), {"apis": ()}, "this cluster has no MutatingAdmissionPolicy"),
    ((IMAGE, "mode=inject", "persistence.enabled=true"), {}, "belong to the engine's own Deployment"),
    ((*STACK, "redis.kind=external"), {}, "redis.kind=external needs redis.existingSecret"),
    ((*STACK, "retrain.enabled=true"), {}, "retrain.enabled needs redis"),
    ((*STACK, "persistence.enabled=true", "replicas=2"), {}, "the traffic log has one writer"),
    ((*STACK, "autoscaling.kind=keda"), {}, "needs autoscaling.prometheusAddress"),
    (
        (*STACK, "metrics.rules.enabled=true"),
        {"apis": ()},
        "does not know monitoring.coreos.com/v1/PrometheusRule: install its operator first",
    ),
    (STACK, {"kubernetes": "1.28.9"}, "requires kubeVersion: >=1.29.0-0"),
    ((*STACK, "config.windwo=3"), {}, "additional properties 'windwo' not allowed"),
    ((*STACK, "config.port=3"), {}, "additional properties 'port' not allowed"),
    ((*STACK, "config.max_overtake=-1"), {}, "/config/max_overtake"),
    ((*STACK, "config.otel_endpoint=collector:4318"), {}, "/config/otel_endpoint"),
    ((*STACK, "engine.modle=3"), {}, "additional properties 'modle' not allowed"),
    ((*STACK, "proxy.port=80000"), {}, "maximum: got 80,000, want 65,535"),
    ((IMAGE, "mode=gateway", "gateway.engines={vllm:8000}"), {}, "/gateway/engines/0"),
]


@pytest.mark.parametrize(("sets", "options", "sentence"), REFUSALS, ids=[r[2][:40] for r in REFUSALS])
def test_what_cannot_work_is_refused(sets: tuple[str, ...], options: dict[str, Any], sentence: str) -> None:
    """Helm stops before anything is installed, with a sentence that names the value."""
    assert sentence in refusal(*sets, **options)


def test_schema_and_table_are_up_to_date() -> None:
    """Schema and README agree with values.yaml and with the proxy's settings: else run helm/chart_docs.py."""
    spec = importlib.util.spec_from_file_location("chart_docs", CHART.parent / "chart_docs.py")
    assert spec and spec.loader
    chart_docs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(chart_docs)
    for path, text in chart_docs.made().items():
        assert path.read_text(encoding="utf-8") == text, (
            f"{path.name} is stale: run python helm/chart_docs.py"
        )


def test_schema_is_strict_everywhere() -> None:
    """Every object that the chart defines refuses unknown keys, and every value has its description."""

    def walk(node: dict[str, Any], path: str) -> None:
        if "properties" in node:
            assert node.get("additionalProperties") is False, path
            for name, child in node["properties"].items():
                walk(child, f"{path}.{name}")
        elif path.count(".") and not path.startswith((".config", ".global")):
            assert "description" in node or ".resources." in path or "items" in path, path

    walk(json.loads((CHART / "values.schema.json").read_text(encoding="utf-8")), "")
