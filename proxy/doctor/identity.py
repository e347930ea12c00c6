"""Who is there: kind, version, model, key, metrics."""

from typing import Final

from proxy.doctor.findings import Finding, bad, good, note
from proxy.engines.facts import EngineFacts

_NAMES: Final = {"vllm": "vLLM", "sglang": "SGLang", "generic": "an OpenAI-compatible server"}
_METRICS_FLAG: Final = {"sglang": "--enable-metrics"}


def identify(facts: EngineFacts) -> list[Finding]:
    """What the engine's answers to harmless GETs tell."""
    if not facts.answered:
        return [bad("engine", "nothing answers there", "--engine http://HOST:PORT")]
    name = f"{_NAMES[facts.kind]} {facts.version or ''}".strip()
    findings = [good("engine", f"{name} (told by {facts.evidence})")]
    if facts.key_refused:
        findings.append(
            bad("key", "the engine refuses this API key, or wants one", "--engine-api-key-file FILE")
        )
    elif facts.models:
        findings.append(good("model", ", ".join(model.id for model in facts.models)))
    else:
        findings.append(bad("model", "/v1/models lists none"))
    return [*findings, *_metrics(facts)]


def _metrics(facts: EngineFacts) -> list[Finding]:
    if facts.kind == "generic":
        return [note("metrics", "the window follows first bytes alone: no metrics are known of this server")]
    if facts.has_metrics:
        return [good("metrics", "/metrics can be read")]
    text = "/metrics cannot be read: the window follows first bytes alone"
    return [bad("metrics", text, _METRICS_FLAG.get(facts.kind))]
