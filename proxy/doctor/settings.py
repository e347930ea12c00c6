"""What the engine says of its own settings, where it says anything."""

from proxy.doctor.findings import Finding, bad, good, note, unproven
from proxy.engines.facts import CacheSettings, EngineFacts, SglangSettings
from proxy.engines.flags import ORDER_LINE


def check_settings(facts: EngineFacts) -> list[Finding]:
    """Findings that need no request."""
    if facts.kind == "sglang":
        if facts.sglang is None:
            return [unproven("settings", "/server_info cannot be read", "--engine-api-key-file FILE")]
        return _sglang(facts.sglang)
    if facts.kind == "vllm":
        kept = "vLLM stops a running request only when its KV cache is full"
        return [note("preemption", kept), *_cache(facts.cache)]
    return []


def _sglang(settings: SglangSettings) -> list[Finding]:
    return [
        _priority(settings),
        # Of priorities that are ignored nothing follows; the flags that come with them are in the line above.
        *([_preemption(settings), _retraction(settings)] if settings.enabled else []),
        good("prefix cache", "radix cache is on")
        if settings.radix_cache
        else bad("prefix cache", "no prompt is ever reused", "leave out --disable-radix-cache"),
        good("cached tokens", "usage tells them")
        if settings.cache_report
        else bad(
            "cached tokens", "usage does not tell how much of a prompt was cached", "--enable-cache-report"
        ),
    ]


def _priority(settings: SglangSettings) -> Finding:
    if not settings.enabled:
        return bad("priority setting", "priorities are ignored", ORDER_LINE["sglang"])
    if settings.default_value is None:
        text = "requests without a priority come last, so that responses and messages would starve"
        return bad("priority setting", text, "--default-priority-value 0")
    sign = "lower" if settings.low_first else "higher"
    return good("priority setting", f"{sign} first, {settings.default_value} where a request has none")


def _preemption(settings: SglangSettings) -> Finding:
    if not settings.preempts:
        return good("preemption", "running requests are not stopped for better ones")
    gap = settings.preemption_threshold
    text = f"running requests are stopped for ones better by more than {gap}"
    return bad("preemption", text, "--disable-priority-preemption")


def _retraction(settings: SglangSettings) -> Finding:
    if settings.retraction_policy == "priority":
        return good("retraction", "a full KV cache costs the worst priority first")
    return note("retraction", "a full KV cache ignores priorities", "--retraction-policy priority")


def _cache(cache: CacheSettings | None) -> list[Finding]:
    if cache is None or cache.prefix_caching is None:
        return []
    if not cache.prefix_caching:
        return [bad("prefix cache", "no prompt is ever reused", "--enable-prefix-caching")]
    return [good("prefix cache", f"on, in blocks of {cache.block_size or '?'} tokens")]
