"""What an engine tells of itself, read out of its answers to harmless questions: pure."""

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec
from prometheus_client.parser import text_string_to_metric_families

Kind = Literal["vllm", "sglang", "generic"]

VERSION, MODELS, SERVER_INFO, METRICS = "/version", "/v1/models", "/server_info", "/metrics"
QUESTIONS: Final = (VERSION, MODELS, SERVER_INFO, METRICS)
_CACHE_CONFIG: Final = "vllm:cache_config_info"
_CACHE_LINE: Final = re.compile(rf"^{_CACHE_CONFIG}\{{.*$", re.MULTILINE)


class Reply(msgspec.Struct, frozen=True):
    """An answer to a question; a status of 0: there was none."""

    status: int = 0
    body: bytes = b""

    @property
    def refused_key(self) -> bool:
        """Whether the engine wants another API key."""
        return self.status in (401, 403)


class Model(msgspec.Struct, frozen=True):
    """One entry of /v1/models."""

    id: str
    max_model_len: int | None = None
    owned_by: str = ""


class _Models(msgspec.Struct, frozen=True):
    data: list[Model] = []


class CacheSettings(msgspec.Struct, frozen=True):
    """vLLM's `cache_config_info`. `retention`: of the prefix cache on sliding-window and hybrid models."""

    block_size: int | None = None
    prefix_caching: bool | None = None
    retention: str | None = None
    sliding_window: int | None = None
    concurrency: float | None = None


class SglangSettings(msgspec.Struct, frozen=True):
    """What /server_info says of the order: whether by priority, which sign, whether running requests are stopped.

    `default_value`: the priority of a request that carries none; None: the worst.
    """

    enabled: bool = False
    low_first: bool = False
    preempts: bool = True
    preemption_threshold: int = 10
    default_value: int | None = None
    cache_report: bool = False
    metrics: bool = False
    usage_by_default: bool = False
    radix_cache: bool = True
    retraction_policy: str = "length"
    page_size: int = 1
    max_running: int | None = None
    chunked_prefill_tokens: int | None = None
    speculative: str | None = None
    hidden_states: bool = False


class EngineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one engine. `evidence`: the answer that told its kind."""

    kind: Kind
    evidence: str
    version: str | None = None
    models: tuple[Model, ...] = ()
    cache: CacheSettings | None = None
    sglang: SglangSettings | None = None
    has_metrics: bool = False
    key_refused: bool = False

    @property
    def answered(self) -> bool:
        """Whether anything answered at all."""
        return bool(self.evidence)


def read_facts(replies: Mapping[str, Reply]) -> EngineFacts:
    """Judge an engine by its answers to `QUESTIONS`; a question without an answer tells nothing."""
    info = _document(replies.get(SERVER_INFO))
    models = _models(replies.get(MODELS))
    metrics = _text(replies.get(METRICS))
    kind, evidence = _kind(info, models, metrics, replies)
    return EngineFacts(
        kind=kind,
        evidence=evidence,
        version=_version(kind, info, _document(replies.get(VERSION))),
        models=models,
        cache=_cache(metrics) if kind == "vllm" else None,
        sglang=_sglang(info) if kind == "sglang" and info else None,
        has_metrics=f"{kind}:" in metrics,
        key_refused=any(replies.get(path, Reply()).refused_key for path in (MODELS, SERVER_INFO)),
    )


def _kind(
    info: dict[str, Any], models: tuple[Model, ...], metrics: str, replies: Mapping[str, Reply]
) -> tuple[Kind, str]:
    """Its own configuration tells best, then the names of its metrics, then who it says owns the model."""
    owners = {model.owned_by for model in models}
    if "schedule_policy" in info or "\nsglang:" in metrics or "sglang" in owners:
        return "sglang", SERVER_INFO if "schedule_policy" in info else METRICS if metrics else MODELS
    if "\nvllm:" in metrics or "vllm" in owners:
        return "vllm", METRICS if "\nvllm:" in metrics else MODELS
    answered = [path for path in QUESTIONS if replies.get(path, Reply()).status]
    return "generic", answered[0] if answered else ""


def _version(kind: Kind, info: dict[str, Any], said: dict[str, Any]) -> str | None:
    version = info.get("version") if kind == "sglang" else said.get("version")
    return version if isinstance(version, str) else None


def _models(reply: Reply | None) -> tuple[Model, ...]:
    if reply is None or reply.status != 200:
        return ()
    try:
        return tuple(msgspec.json.decode(reply.body, type=_Models, strict=False).data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ()


def _document(reply: Reply | None) -> dict[str, Any]:
    if reply is None or reply.status != 200:
        return {}
    try:
        found = msgspec.json.decode(reply.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(reply: Reply | None) -> str:
    return "" if reply is None or reply.status != 200 else "\n" + reply.body.decode(errors="replace")


def _cache(metrics: str) -> CacheSettings | None:
    line = _CACHE_LINE.search(metrics)
    if line is None:
        return None
    try:
        families = list(text_string_to_metric_families(line[0] + "\n"))
    except ValueError:
        return None
    labels = families[0].samples[0].labels
    caching = labels.get("enable_prefix_caching")
    return CacheSettings(
        block_size=_number(labels.get("block_size")),
        prefix_caching=None if caching is None else caching == "True",
        retention=labels.get("prefix_cache_retention_interval"),
        sliding_window=_number(labels.get("sliding_window")),
        concurrency=_decimal(labels.get("kv_cache_max_concurrency")),
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _decimal(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _sglang(info: dict[str, Any]) -> SglangSettings:
    def number(name: str) -> int | None:
        value = info.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    speculative = info.get("speculative_algorithm")
    return SglangSettings(
        enabled=bool(info.get("enable_priority_scheduling")),
        low_first=bool(info.get("schedule_low_priority_values_first")),
        preempts=not info.get("disable_priority_preemption"),
        preemption_threshold=number("priority_scheduling_preemption_threshold") or 0,
        default_value=number("default_priority_value"),
        cache_report=bool(info.get("enable_cache_report")),
        metrics=bool(info.get("enable_metrics")),
        usage_by_default=bool(info.get("stream_response_default_include_usage")),
        radix_cache=not info.get("disable_radix_cache"),
        retraction_policy=str(info.get("retraction_policy") or "length"),
        page_size=number("page_size") or 1,
        max_running=number("max_running_requests"),
        chunked_prefill_tokens=number("chunked_prefill_size"),
        speculative=speculative if isinstance(speculative, str) else None,
        hidden_states=bool(
            info.get("enable_return_hidden_states")
            or info.get("return_hidden_states_mode") not in (None, "none")
        ),
    )
