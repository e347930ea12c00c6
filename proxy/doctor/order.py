"""The ordering probe: requests sent worst first; an engine that honours priorities answers them the other way."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from proxy.doctor.findings import Finding, bad, good, note, unproven
from proxy.doctor.target import Body, Target, Timed, user
from proxy.engines.adapter import Load, Turn
from proxy.engines.flags import ORDER_LINE
from proxy.engines.sglang import SglangAdapter

# 3 alone, 24 and 32 in the crowds: with the one that follows, less than 64.
_SHORT_CROWD: Final = 24
_LONG_CROWD: Final = 32
_LONG_TOKENS: Final = 1024
_GAP_S: Final = 0.001
_FIRST_TIER: Final = 9
_FEWEST_VOTES: Final = 12
_HONOURED: Final = 0.75
_IGNORED: Final = 0.25
_SAME_MOMENT_S: Final = 0.004
_LATENCY_S: Final = 0.01
_NAME: Final = "order"


class Votes(msgspec.Struct, frozen=True):
    """Pairs that waited together, the better one sent later; `honoured`: in how many it began first."""

    pairs: int
    honoured: int

    @property
    def share(self) -> float:
        """Of the pairs in which the better one began first."""
        return self.honoured / self.pairs if self.pairs else 0.5

    @property
    def decided(self) -> bool:
        """Whether they say anything."""
        return self.pairs >= _FEWEST_VOTES and not _IGNORED < self.share < _HONOURED


def count_votes(seen: Sequence[Timed], alone_s: float, step_s: float) -> Votes:
    """Compare all pairs. `alone_s`: the time to first token of such a request in an idle engine.

    `step_s`: the time of one of the engine's steps.

    A pair counts where both waited, the later one was there before either was taken up, and they did not begin
    in the same step.
    """
    pairs = honoured = 0
    apart_s = max(_SAME_MOMENT_S, 0.3 * alone_s, 1.5 * step_s)
    # Before either was taken up, not only before it had its first token.
    there_s = 1.5 * alone_s + _LATENCY_S
    waited = [one for one in seen if one.first_s is not None and one.first_s - one.sent_s > 1.5 * alone_s]
    for earlier, later in itertools.combinations(sorted(waited, key=lambda one: one.sent_s), 2):
        assert earlier.first_s is not None and later.first_s is not None
        better = None not in (earlier.rank, later.rank) and later.rank < earlier.rank  # type: ignore[operator]
        together = min(earlier.first_s, later.first_s) - later.sent_s > there_s
        if better and together and abs(earlier.first_s - later.first_s) > apart_s:
            pairs += 1
            honoured += later.first_s < earlier.first_s
    return Votes(pairs, honoured)


async def check_order(target: Target) -> list[Finding]:
    """Probe, where the engine takes priorities and has nothing else to do."""
    if target.adapter.kind == "generic":
        return [note(_NAME, "this server takes no priorities: the proxy holds and orders (hold mode)")]
    if isinstance(target.adapter, SglangAdapter) and not target.adapter.sends_priority:
        return [note(_NAME, "no priorities are sent: the proxy holds and orders")]
    busy = None if target.force else await why_busy(target)
    if busy is not None:
        return [unproven(_NAME, busy, "--force")]
    votes = await _crowd(target, _short, _SHORT_CROWD)
    if not votes.decided:
        votes = max(votes, await _crowd(target, _long, _LONG_CROWD), key=lambda one: one.pairs)
    return [await _judge(target, votes), await _several_answers(target)]


async def why_busy(target: Target) -> str | None:
    """What speaks against a probe; None where the engine is idle."""
    load = await read_load(target)
    if load is None:
        return "whether the engine is idle cannot be seen"
    if load.running or load.waiting:
        return f"the engine has other work ({load.running} running, {load.waiting} waiting)"
    return None


async def read_load(target: Target) -> Load | None:
    """What the engine is doing, by its metrics or, at SGLang, by /v1/loads."""
    load = target.adapter.load((await target.get("/metrics")).body)
    if load is not None or target.adapter.kind != "sglang":
        return load
    reply = await target.get("/v1/loads?include=core")
    try:
        ranks = msgspec.json.decode(reply.body, type=_Loads).loads
    except msgspec.DecodeError:
        return None
    return Load(sum(r.num_running_reqs for r in ranks), sum(r.num_waiting_reqs for r in ranks), 0.0)


class _Rank(msgspec.Struct):
    num_running_reqs: int
    num_waiting_reqs: int


class _Loads(msgspec.Struct):
    loads: list[_Rank]


async def _crowd(target: Target, make: Callable[[Target, int], Body], size: int) -> Votes:
    """Send `size` requests, each better than the one before it."""
    await target.chat(make(target, 0))
    alone = await target.chat(make(target, 0))
    if alone.first_s is None:
        return Votes(0, 0)

    async def one(place: int) -> Timed:
        await asyncio.sleep(place * _GAP_S)
        worse = size - 1 - place
        return await target.chat(make(target, place), Turn(worse, _FIRST_TIER * worse // size))

    seen = await asyncio.gather(*(one(place) for place in range(size)))
    return count_votes(seen, alone.first_s - alone.sent_s, alone.step_s)


def _short(target: Target, place: int) -> Body:
    """Fills slots; the lengths differ, so that slots come free one by one."""
    text = f"{target.new_id()[:8]} Tell a story."
    return _streamed(text, 8 + place * 7 % 9)


def _long(target: Target, place: int) -> Body:
    """Fills the steps' token budget, where there are more slots than a probe may fill."""
    tokens = min(_LONG_TOKENS, target.context_tokens // 3)
    return _streamed(f"{target.new_id()} {place}" + " word" * tokens, 1)


def _streamed(text: str, tokens: int) -> Body:
    return {
        "messages": user(text),
        "max_tokens": tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
    }


async def _judge(target: Target, votes: Votes) -> Finding:
    figures = f"in {votes.honoured} of {votes.pairs} pairs the better request began first"
    if not votes.decided:
        return unproven(_NAME, f"no queue could be made to see it ({figures})")
    if votes.share >= _HONOURED:
        return good(_NAME, f"priorities are honoured: {figures}")
    if await _priority_arrives(target):
        return bad(_NAME, f"priorities are ignored: {figures}", ORDER_LINE.get(target.adapter.kind))
    text = f"priorities do not reach the engine, something between drops them: {figures}"
    return bad(_NAME, text, "--engine URL OF THE ENGINE ITSELF")


async def _priority_arrives(target: Target) -> bool:
    """Whether an impossible priority is refused: where it is not, the engine has not seen it."""
    body = {"model": target.model, "messages": user("Hi."), "max_tokens": 1, "priority": "impossible"}
    return (await target.post("/v1/chat/completions", body)).status in (400, 422)


async def _several_answers(target: Target) -> Finding:
    """Some versions of vLLM failed on a priority beside n>1 (vllm#29747)."""
    body = {"messages": user("Say hello."), "max_tokens": 2, "n": 2, "temperature": 1.0}
    seen = await target.chat(body, Turn(1, 0))
    if seen.ok and seen.answer.choices == 2:
        return good("several answers", "n=2 with a priority works")
    return bad("several answers", f"n=2 with a priority ends with status {seen.status}")
