"""Whether answers tell what they cost: without it nothing can be learned from traffic."""

from proxy.doctor.findings import Finding, bad, good
from proxy.doctor.target import Target, Timed, user

_ASK = {"max_tokens": 2, "temperature": 0}


async def check_usage(target: Target) -> list[Finding]:
    """One stream and one unary answer. The adapter asks for usage as the proxy does."""
    stream = await target.chat({"messages": user("Say hello."), "stream": True, **_ASK})
    unary = await target.chat({"messages": user("Say hello."), **_ASK})
    if not unary.ok:
        said = unary.body.decode(errors="replace")[:200]
        return [bad("answers", f"a plain chat request ends with status {unary.status}: {said}")]
    return [_tells("usage in streams", stream), _tells("usage", unary)]


def _tells(name: str, seen: Timed) -> Finding:
    tokens = seen.answer.usage.completion_tokens if seen.answer.usage else None
    if tokens:
        return good(name, "told")
    return bad(name, "not told: no lengths can be learned from these answers")
