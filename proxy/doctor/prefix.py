"""Whether a request finds in the cache what its self-prediction query computed just before, and says so."""

from typing import Final

import msgspec

from proxy.doctor.findings import Finding, bad, good, note, unproven
from proxy.doctor.target import Target, Timed, user

_WORDS: Final = ("river", "stone", "cloud", "lamp", "green", "paper", "music", "seven")
# So many blocks must fit into the prompt for a miss to mean anything.
_BLOCKS: Final = 3
_SHORTEST_TOKENS: Final = 160
_UNKNOWN_BLOCK_TOKENS: Final = 128
_ENOUGH: Final = 0.8
_REPORT_FLAG: Final = {"vllm": "--enable-prompt-tokens-details", "sglang": "--enable-cache-report"}
_REUSE_FLAG: Final = {
    "vllm": "--prefix-cache-retention-interval None (sliding-window and hybrid models)",
    "sglang": "leave out --disable-radix-cache",
}


class Reuse(msgspec.Struct, frozen=True):
    """What was cached of a request after its query, and what could have been. None: not told."""

    cached: int | None
    possible: int

    @property
    def enough(self) -> bool:
        """Whether the query's work was not lost."""
        return self.cached is not None and self.cached >= _ENOUGH * self.possible


async def check_prefix(target: Target) -> list[Finding]:
    """Send a query, then the request that it was about."""
    if _is_off(target):
        return [note("shared prefix", "nothing is reused while the prefix cache is off")]
    block = _block_tokens(target)
    text = _prompt(target, block)
    plain = {"messages": user(text), "max_tokens": 1, "temperature": 0}
    try:
        told = target.facts.kind != "generic"
        query = await (target.ask_about(text, await target.token_ids()) if told else target.chat(plain))
    except ValueError as error:
        return [unproven("shared prefix", f"no query is answered: {error}")]
    real = await target.chat(plain)
    if not (query.ok and real.ok):
        return [unproven("shared prefix", f"a query or its prompt of {len(text)} characters was refused")]
    # A prompt's last token is computed in any case: it gives the answer's first.
    whole = max(0, (real.prompt_tokens or 0) - 1) // block * block
    return judge(target.facts.kind, Reuse(real.cached_tokens, whole), query, real)


def judge(kind: str, reuse: Reuse, query: Timed, real: Timed) -> list[Finding]:
    """Two findings: whether cached tokens are told, and whether the prefix was reused."""
    spared = f"{_seconds(query)} for the query, {_seconds(real)} for the request after it"
    if reuse.cached is None:
        told = bad(
            "cached tokens", "usage does not tell how much of a prompt was cached", _REPORT_FLAG.get(kind)
        )
        if kind == "generic":
            told = note(told.name, told.text)
        return [told, unproven("shared prefix", f"cannot be told ({spared})", _REPORT_FLAG.get(kind))]
    told = good("cached tokens", "usage tells them")
    figures = f"{reuse.cached} of {reuse.possible} tokens of the prompt came from the cache; {spared}"
    if reuse.enough:
        return [told, good("shared prefix", figures)]
    if kind == "generic":
        return [told, note("shared prefix", figures)]
    return [told, bad("shared prefix", figures, _REUSE_FLAG.get(kind))]


def _is_off(target: Target) -> bool:
    """Whether the engine itself says that it keeps no prefixes: that is a finding of its own."""
    cache, settings = target.facts.cache, target.facts.sglang
    return (cache is not None and cache.prefix_caching is False) or bool(
        settings and not settings.radix_cache
    )


def _block_tokens(target: Target) -> int:
    facts = target.facts
    if facts.sglang is not None:
        return facts.sglang.page_size
    return (facts.cache.block_size if facts.cache else None) or _UNKNOWN_BLOCK_TOKENS


def _prompt(target: Target, block: int) -> str:
    """About a token to each word; new every time, so that no earlier run has cached it."""
    tokens = min(max(_SHORTEST_TOKENS, (_BLOCKS + 1) * block), target.context_tokens // 2)
    words = (_WORDS[place * 5 % len(_WORDS)] for place in range(tokens))
    return f"{target.new_id()} " + " ".join(words)


def _seconds(seen: Timed) -> str:
    return f"{seen.done_s - seen.sent_s:.2f} s"
