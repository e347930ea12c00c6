"""Asks about requests that wait near the front, and moves them by what the model says of itself, once."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from predictor.self_query import NoQuery, SelfQuery, build_query, read_signals
from proxy.asking.gate import AskGate, AskLimits
from proxy.asking.tally import AskTally
from proxy.asking.vocabulary import Vocabulary
from proxy.clock import Clock
from proxy.dialects import decode_answer
from proxy.dispatcher import Dispatcher
from proxy.engines.registry import Engines
from proxy.errors import HeadwayError
from proxy.exchange import Asked, Exchange
from proxy.ranking import NEUTRAL, Estimator
from proxy.scheduling.queued import QueuedRequest, State

# A few windows away from its turn a request is near enough; farther off better ones may still come.
_NEAR_WINDOWS: Final = 3
_MOST_NEAR: Final = 64
_SLOTS_UNKNOWN: Final = 8
# How many go from the front of the queue while a query is answered, until it was seen, and how fast that is learned.
_FIRST_LEAD: Final = 2.0
_LEAD_GAIN: Final = 0.2
_BLOCK_UNKNOWN: Final = 16

# A query takes about as much of the engine as so many tokens (one, and what of the prompt's end no block holds):
# between bounds that lie closer it can win nothing.
_WORTH_TOKENS: Final = 16

_NO_WAIT: Final = "no_wait"
_FAR: Final = "far"
_CERTAIN: Final = "certain"

Send = Callable[[SelfQuery, str], Awaitable[bytes]]


class Candidate(msgspec.Struct, eq=False):
    """A waiting request. `send` puts a query to an engine on its client's account.

    `reason`: why it cannot be asked about; `open_tokens`: how many lie between the bounds of its prediction;
    `freed`: places that had become free before it came; `failed`: its query brought nothing.
    """

    item: QueuedRequest
    exchange: Exchange
    raw: bytes
    send: Send
    reason: str = ""
    open_tokens: float = 0.0
    freed: int = 0
    asking: bool = False
    failed: bool = False


class Asker:
    """Knows who waits; whenever a place at an engine is free again, of those who are near the front the one is
    asked about whose answer's length is least certain.

    That moment is chosen because a query, which goes before everything in the engine's queue, then finds
    room at once: no slot is kept empty for it. Its answer comes while the request still waits, or it is
    late and changes nothing; so those are passed over who will have gone before an answer can come. The
    request is bound to the engine that now has its prompt cached.
    """

    def __init__(
        self,
        limits: AskLimits,
        *,
        learning_part: float,
        dispatcher: Dispatcher,
        engines: Engines,
        estimator: Estimator,
        tally: AskTally,
        vocabulary: Vocabulary,
        clock: Clock,
    ) -> None:
        """`learning_part`: of the budget that may go into the log for a ranker that cannot use signals yet."""
        self._limits = limits
        self._learning_part = learning_part
        self._dispatcher = dispatcher
        self._engines = engines
        self._estimator = estimator
        self._tally = tally
        self._vocabulary = vocabulary
        self._clock = clock
        self._waiting: dict[int, Candidate] = {}
        self._gates: dict[str, AskGate] = {}
        self._freed = 0
        # Why the last free place brought no query.
        self._why = _FAR
        self._lead = _FIRST_LEAD
        self._tasks: set[asyncio.Task[None]] = set()
        engines.renewed = self.forget

    def listens(self, exchange: Exchange) -> bool:
        """Whether the ranker or the log can do anything with what a model would say.

        Once an engine has had the request its key stays: it has changed as often as it may.
        """
        estimate = exchange.estimate
        if exchange.attempts:
            return False
        return self._estimator.uses_signals or (estimate is not None and estimate.features is not None)

    def waits(self, candidate: Candidate) -> None:
        """A request is about to be admitted: it may have to wait."""
        candidate.freed = self._freed
        candidate.open_tokens = _open_tokens(candidate)
        if candidate.open_tokens < _WORTH_TOKENS:
            candidate.reason = _CERTAIN
        self._waiting[candidate.item.seq] = candidate

    def leaves(self, item: QueuedRequest) -> None:
        """It waits no more, for whatever reason; counts whether it was asked about in time."""
        candidate = self._waiting.pop(item.seq, None)
        if candidate is None:
            return
        if candidate.exchange.asked is not None:
            self._tally.hit()
        elif candidate.failed:
            self._tally.unanswered()
        elif candidate.asking:
            self._tally.late()
        else:
            self._tally.skipped(
                (candidate.reason or self._why) if self._freed > candidate.freed else _NO_WAIT
            )

    def place_freed(self, engine: str) -> None:
        """A request has left an engine: there is a moment's room."""
        self._freed += 1
        replica = next((one for one in self._dispatcher.scheduler.replicas if one.name == engine), None)
        # An engine may have left since.
        if replica is None or not self._waiting or self._engines.adapter(engine).kind == "generic":
            return
        slots = replica.window or replica.running or _SLOTS_UNKNOWN
        gate = self._gates.setdefault(engine, AskGate(self._limits, self._clock.now_us()))
        part = 1.0 if self._estimator.uses_signals else self._learning_part
        skip = gate.refuses(slots, self._clock.now_us(), part)
        self._why = skip.value if skip is not None else _FAR
        if skip is not None:
            return
        near = self._near(min(_MOST_NEAR, _NEAR_WINDOWS * slots))
        found = max(near, key=lambda candidate: candidate.open_tokens, default=None)
        if found is None:
            return
        query = self._query(found, engine)
        if isinstance(query, NoQuery):
            found.reason = query.value
            return
        self._begin(found, query, gate, engine)

    def cached_share(self, engine: str) -> float | None:
        """Of what queries computed for the requests after them, the share that those found; None: not known."""
        gate = self._gates.get(engine)
        return None if gate is None else gate.cached_share

    def forget(self, engine: str) -> None:
        """The engine has left, or is back and may be another: nothing that was learned of it holds."""
        self._gates.pop(engine, None)
        self._vocabulary.forget(engine)

    async def close(self) -> None:
        """End the queries that are under way."""
        self._vocabulary.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def judge(self, exchange: Exchange) -> None:
        """An exchange has ended: did the request find in the cache what its query had computed?"""
        asked, usage = exchange.asked, exchange.usage
        if asked is None or usage is None or usage.prompt_tokens is None or exchange.replica != asked.engine:
            return
        gate = self._gates.get(asked.engine)
        if gate is None:
            return
        block = self._block_tokens(asked.engine)
        # The last token is always computed anew.
        shared = max(0, usage.prompt_tokens - 1) // block * block
        found = (usage.cached_tokens or 0) - asked.cached_before
        gate.reused(found, shared - asked.cached_before, self._clock.now_us())

    def _near(self, count: int) -> list[Candidate]:
        """Who may be asked about, next first."""
        lead = math.ceil(self._lead)
        upcoming = self._dispatcher.scheduler.upcoming(lead + count)[lead:]
        known = (self._waiting.get(item.seq) for item in upcoming)
        return [one for one in known if one is not None and not one.asking and not one.reason]

    def _query(self, candidate: Candidate, engine: str) -> SelfQuery | NoQuery:
        return build_query(
            candidate.raw,
            candidate.exchange.api,
            sglang=self._engines.adapter(engine).kind == "sglang",
            token_ids=self._vocabulary.of(engine, self._clock.now_us()),
        )

    def _begin(self, candidate: Candidate, query: SelfQuery, gate: AskGate, engine: str) -> None:
        candidate.asking = True
        gate.asked()
        task = asyncio.create_task(self._ask(candidate, query, gate, engine))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, candidate: Candidate, query: SelfQuery, gate: AskGate, engine: str) -> None:
        started_s, freed = time.monotonic(), self._freed
        answered, queued_s = False, 0.0
        try:
            async with asyncio.timeout(gate.pace.deadline_s):
                answer = await candidate.send(query, engine)
            gate.pace.answered(time.monotonic() - started_s)
            signals = read_signals(answer)
            told = decode_answer(answer, query.api)
            answered, queued_s = True, (told.engine_queue_ms or 0.0) / 1000
        except (HeadwayError, TimeoutError, ValueError) as error:
            candidate.failed = True
            self._tally.failed(error)
            if isinstance(error, TimeoutError):
                gate.pace.given_up()
        finally:
            # What it waited in the engine's queue took nobody's slot.
            took_s = max(0.0, time.monotonic() - started_s - queued_s)
            gate.ended(took_s, self._clock.now_us(), answered=answered)
            self._lead += (self._freed - freed - self._lead) * _LEAD_GAIN
        if answered and candidate.item.state is State.WAITING:
            cached = told.usage.cached_tokens if told.usage else None
            self._move(candidate, signals, cached or 0, engine)

    def _move(self, candidate: Candidate, signals: dict[str, float], cached_before: int, engine: str) -> None:
        exchange, item = candidate.exchange, candidate.item
        assert exchange.estimate is not None, "whoever waits was ranked"
        exchange.asked = Asked(engine, cached_before)
        exchange.estimate = self._estimator.refine(exchange.estimate, signals, self._clock.now_us() / 1e6)
        item.bound_to = engine
        self._dispatcher.rekey(item, exchange.estimate.prediction)

    def _block_tokens(self, engine: str) -> int:
        facts = self._engines.facts(engine)
        if facts is not None and facts.sglang is not None:
            return facts.sglang.page_size
        return (facts.cache.block_size if facts and facts.cache else None) or _BLOCK_UNKNOWN


def _open_tokens(candidate: Candidate) -> float:
    """Where the answer's length may lie, within the client's own limit; 0 where nothing could be made of more."""
    prediction, body = candidate.item.prediction, candidate.exchange.body
    if prediction is NEUTRAL:
        return 0.0
    limit = (body.token_limit if body else None) or math.inf
    return min(prediction.p90_tokens, limit) - min(prediction.p10_tokens, limit)
