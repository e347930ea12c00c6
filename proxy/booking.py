"""What is done with an exchange once it has ended: counted, watched, learned from, logged."""

import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Final

from predictor.features.schema import Schema
from predictor.history import HistoryKey
from predictor.records import CUT, Outcome, TrafficRecord
from proxy.clock import Clock
from proxy.engines.registry import Engines
from proxy.exchange import Exchange
from proxy.fairness import Fairness
from proxy.learning import Learning
from proxy.metrics import Metrics
from proxy.order_watch import OrderWatch, Sighting, Verdict
from proxy.ranking import NEUTRAL, Estimate, Estimator

_LOG: Final = logging.getLogger("headway.order")
_ENDED_BY_ITSELF: Final = frozenset(
    {"stop", "tool_calls", "function_call", "end_turn", "stop_sequence", "tool_use", "completed"}
)


class Bookkeeper:
    """Takes in every ended exchange, once."""

    def __init__(
        self,
        *,
        clock: Clock,
        metrics: Metrics,
        estimator: Estimator,
        engines: Engines,
        record: Callable[[TrafficRecord, Schema | None], None],
        learning: Learning,
        mode: str,
        text_mode: str,
        fairness: Fairness,
        judged: Callable[[str], None],
        tell: Callable[[HistoryKey, int, float], None] | None = None,
    ) -> None:
        """`judged` is called with an engine's URL whenever more is known of how it orders.

        `tell` lets other proxies know of an answer that was learned from.
        """
        self._clock = clock
        self._metrics = metrics
        self._estimator = estimator
        self._record = record
        self._learning = learning
        self._mode = mode
        self._tell = tell
        self._text_mode = text_mode
        self.fairness = fairness
        self._engines = engines
        self._judged = judged
        self.watches: defaultdict[str, OrderWatch] = defaultdict(OrderWatch)

    def book(self, exchange: Exchange, policy: str) -> None:
        """The exchange has ended; it came under `policy`."""
        self._metrics.observe(exchange, exchange.outcome or Outcome.INTERNAL_ERROR)
        self._watch_order(exchange)
        if exchange.usage is not None and exchange.replica is not None:
            self._engines.saw_usage(exchange.replica, exchange.usage)
        self._learn(exchange)
        tokens = exchange.actual_tokens()
        if tokens is not None and exchange.identity is not None:
            self.fairness.served(exchange.identity.tenant, tokens, self._clock.now_us())
        estimate = exchange.estimate or Estimate(NEUTRAL)
        record = exchange.record(
            policy=policy,
            mode=self._mode,
            artifact=estimate.artifact or self._estimator.artifact_id,
            text_mode=self._text_mode,
        )
        self._record(record, estimate.features.schema if estimate.features else None)
        if exchange.span is not None:
            exchange.span.end(record, self._clock.now_us())

    def began(self, exchange: Exchange) -> None:
        """An engine has begun with it; called again where another one does."""
        self._learning.began(exchange)

    def waits(self, exchange: Exchange) -> None:
        """It waits for a place: whichever engine had it has taken nothing of it, and does not run it."""
        self._learning.ended(exchange, None, cut=False)

    def came_back(self, engine: str) -> None:
        """An engine may have been started otherwise: how it orders is to be seen anew."""
        self.watches[engine].reset()
        self._judged(engine)

    def _learn(self, exchange: Exchange) -> None:
        """Only answers that ended by themselves are lengths; a cut one says no more than 'at least'."""
        tokens = exchange.usage.completion_tokens if exchange.usage else None
        cut, by_itself = exchange.finish_reason in CUT, exchange.finish_reason in _ENDED_BY_ITSELF
        self._learning.ended(exchange, tokens if cut or by_itself else None, cut=cut)
        if exchange.estimate is None or tokens is None or not by_itself:
            return
        finished_at_s = self._clock.now_us() / 1e6
        self._estimator.learn(exchange.estimate, tokens, finished_at_s)
        if self._tell is not None and exchange.estimate.history_key is not None:
            self._tell(exchange.estimate.history_key, tokens, finished_at_s)

    def _watch_order(self, exchange: Exchange) -> None:
        """Only streams count: a unary answer's first byte comes with its last."""
        if exchange.first_byte_us is None or exchange.body is None or not exchange.body.stream:
            return
        assert exchange.replica is not None and exchange.dispatched_us is not None
        if exchange.rank is None:
            return
        watch = self.watches[exchange.replica]
        before = watch.verdict
        watch.observe(Sighting(exchange.dispatched_us, exchange.first_byte_us, exchange.rank))
        if watch.verdict is not before:
            level = logging.INFO if watch.verdict is Verdict.HONOURED else logging.WARNING
            _LOG.log(
                level, "engine %s: priority %s (%d pairs)", exchange.replica, watch.verdict.value, watch.pairs
            )
            self._judged(exchange.replica)
