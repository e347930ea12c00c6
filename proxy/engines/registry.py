"""What each engine is and how it is spoken to: asked in the background, adapted to, and said in the log."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Literal

import msgspec

from proxy.answers import Usage
from proxy.engines.adapter import EngineAdapter
from proxy.engines.detect import detect
from proxy.engines.facts import EngineFacts, Kind, SglangSettings
from proxy.engines.flags import ORDER_LINE
from proxy.engines.generic import GenericAdapter
from proxy.engines.sglang import SglangAdapter
from proxy.engines.vllm import VllmAdapter
from proxy.upstream import Upstream

_LOG: Final = logging.getLogger("headway.engines")
_AGAIN_S: Final = 60.0
# Answers with usage, after which cached tokens would have been seen.
_ENOUGH_ANSWERS: Final = 5
# While nothing is known: SGLang answers 200 here, others 404; none does any work for it.
_UNKNOWN: Final = GenericAdapter(health_path="/ready", asks_usage=False)


class _Known(msgspec.Struct):
    """One engine as it is known now. `reports_cached`: whether usage has cached tokens; None: not seen yet."""

    adapter: EngineAdapter
    facts: EngineFacts | None = None
    reports_cached: bool | None = None
    answers: int = 0


class Engines:
    """The engines by their base URLs."""

    def __init__(
        self,
        upstream: Upstream,
        api_key: str | None,
        *,
        kind: Literal["auto"] | Kind = "auto",
        default_tier: int = 0,
        changed: Callable[[str], None] | None = None,
    ) -> None:
        """`kind` overrides what the engines say. `default_tier`: of requests whose key names no class.

        `changed` is called with an engine's URL whenever it is spoken to in another way than before.
        """
        self._upstream = upstream
        self._api_key = api_key
        self._kind = kind
        self._default_tier = default_tier
        self._changed = changed
        self._known: dict[str, _Known] = {}
        self.renewed: Callable[[str], None] | None = None
        """Told of an engine of which nothing learned holds any more: it has left, or is back."""

    def add(self, base: str) -> None:
        """One more engine, of which nothing is known yet."""
        self._known[base] = self._stranger()

    def remove(self, base: str) -> None:
        """The engine is gone for good. Whoever still asks about it is told what is said of a stranger."""
        self._known.pop(base, None)
        self.renew(base)

    def renew(self, base: str) -> None:
        """An engine is there again, and may be another."""
        if self.renewed is not None:
            self.renewed(base)

    def _stranger(self) -> _Known:
        return _Known(_UNKNOWN if self._kind == "auto" else self._adapter(self._kind, None))

    def _of(self, base: str) -> _Known:
        return self._known.get(base) or self._stranger()

    def adapter(self, base: str) -> EngineAdapter:
        """How to speak to an engine now."""
        return self._of(base).adapter

    def facts(self, base: str) -> EngineFacts | None:
        """What an engine told of itself; None before it was asked."""
        return self._of(base).facts

    def reports_cached(self, base: str) -> bool | None:
        """Whether an engine's usage tells cached tokens; None: not seen yet."""
        return self._of(base).reports_cached

    async def examine(self, base: str) -> None:
        """Ask an engine what it is, and adapt. One that does not answer stays what it was."""
        facts = await detect(self._upstream, base, self._api_key)
        known = self._of(base)
        if facts == known.facts or (known.facts is not None and not facts.answered):
            return
        known.facts = facts
        known.answers, known.reports_cached = 0, None
        adapter = self._adapter(facts.kind if self._kind == "auto" else self._kind, facts)
        if adapter != known.adapter:
            known.adapter = adapter
            if self._changed is not None and base in self._known:
                self._changed(base)
        _LOG.info("engine %s: %s", base, describe(facts, adapter))

    async def run(self) -> None:
        """Ask again from time to time, until cancelled: an engine may be replaced behind its address."""
        while True:
            await asyncio.sleep(_AGAIN_S)
            for base in list(self._known):
                await self.examine(base)

    def saw_usage(self, base: str, usage: Usage) -> None:
        """An answer came with usage: does the engine tell how much of a prompt was cached?"""
        known = self._of(base)
        if known.reports_cached:
            return
        known.answers += 1
        if usage.cached_tokens is not None:
            known.reports_cached = True
        elif known.reports_cached is None and known.answers >= _ENOUGH_ANSWERS:
            known.reports_cached = False
            flag = _CACHE_FLAG.get(known.adapter.kind)
            if flag is not None:
                _LOG.warning("engine %s does not tell cached tokens: start it with %s", base, flag)

    def _adapter(self, kind: Kind, facts: EngineFacts | None) -> EngineAdapter:
        return adapter_for(kind, facts, default_tier=self._default_tier)


def adapter_for(kind: Kind, facts: EngineFacts | None, *, default_tier: int) -> EngineAdapter:
    """How to speak to an engine of a kind; `facts`: what it told of itself."""
    if kind == "vllm":
        return VllmAdapter()
    if kind == "sglang":
        return SglangAdapter(facts.sglang if facts else None, default_tier)
    return GenericAdapter()


_CACHE_FLAG: Final = {"vllm": "--enable-prompt-tokens-details", "sglang": "--enable-cache-report"}


def describe(facts: EngineFacts, adapter: EngineAdapter) -> str:
    """One line: what an engine is, and what is made of it."""
    models = ", ".join(model.id for model in facts.models) or "unknown"
    parts = [
        f"{adapter.kind} {facts.version or 'of unknown version'}, model {models}",
        _order(facts, adapter),
    ]
    if adapter.kind != facts.kind:
        parts.append(f"it looks like {facts.kind}, but engine_kind says {adapter.kind}")
    if facts.key_refused:
        parts.append("it refuses the proxy's API key (engine_api_key_file)")
    if facts.cache is not None and facts.cache.prefix_caching is False:
        parts.append("no prefix caching (--enable-prefix-caching)")
    return "; ".join(parts)


def _order(facts: EngineFacts, adapter: EngineAdapter) -> str:
    if adapter.orders_requests:
        return "it is sent priorities, and watched for whether it honours them"
    if isinstance(adapter, SglangAdapter):
        if adapter.sends_priority:
            return "one priority per tier, inside a tier the proxy's order"
        return f"{_why_no_tiers(facts.sglang)}: the proxy holds and orders"
    return "it takes no priorities: the proxy holds and orders"


def _why_no_tiers(settings: SglangSettings | None) -> str:
    if settings is None:
        return "its settings cannot be read"
    if not settings.enabled:
        return f"priorities are off ({ORDER_LINE['sglang']})"
    if settings.default_value is None:
        return "no priorities are sent without --default-priority-value"
    return "it stops running requests for better ones (--disable-priority-preemption)"
