"""What the proxy counts, in Prometheus form, with its handles bound once so that counting costs little."""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

from predictor.records import Outcome
from predictor.request import Api
from proxy.exchange import Exchange

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class _Counts(Collector):
    """A counter's series, asked of whoever keeps them."""

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str],
        read: Callable[[], Mapping[tuple[str, ...], float]],
    ) -> None:
        self._family = partial(CounterMetricFamily, name, text, labels=labels)
        self._read = read

    def collect(self) -> Iterator[Metric]:
        family = self._family()
        for values, count in self._read().items():
            family.add_metric(values, count)
        yield family


class Metrics:
    """One registry per proxy; nothing is global, so several can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.ended: collections.Counter[Outcome] = collections.Counter()
        self._by_engine: dict[str, Gauge] = {}
        self._requests = Counter(
            "headway_requests",
            "Requests by route and how they ended.",
            ["api", "outcome"],
            registry=self.registry,
        )
        self._queue = self._histogram("headway_queue_seconds", "Seconds from arrival to dispatch.")
        self._ttft = self._histogram(
            "headway_time_to_first_token_seconds", "Seconds from arrival to first byte."
        )
        self._e2e = self._histogram("headway_e2e_seconds", "Seconds from arrival to last byte.")
        self._tokens = Counter(
            "headway_output_tokens", "Tokens that engines generated.", registry=self.registry
        )
        self._outcomes = {
            (api.value, outcome): self._requests.labels(api.value, outcome.value)
            for api in Api
            for outcome in Outcome
        }

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(name, text, buckets=_SECONDS, registry=self.registry)

    def counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        """A counter that somebody else counts."""
        return Counter(name, text, labels, registry=self.registry)

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A gauge that is read when /metrics is."""
        Gauge(name, text, registry=self.registry).set_function(read)

    def count(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A counter that somebody else keeps, read when /metrics is; `name` without `_total`."""
        self.counts(name, text, (), lambda: {(): read()})

    def counts(
        self,
        name: str,
        text: str,
        labels: Sequence[str],
        read: Callable[[], Mapping[tuple[str, ...], float]],
    ) -> None:
        """The same, one series per tuple of label values."""
        self.registry.register(_Counts(name, text, labels, read))

    def engine_gauge(self, name: str, text: str, engine: str, read: Callable[[], float]) -> None:
        """The same, one series per engine."""
        if name not in self._by_engine:
            self._by_engine[name] = Gauge(name, text, ["engine"], registry=self.registry)
        self._by_engine[name].labels(engine).set_function(read)

    def forget_engine(self, engine: str) -> None:
        """An engine is gone for good: so are its series."""
        for gauge in self._by_engine.values():
            with suppress(KeyError):
                gauge.remove(engine)

    def observe(self, exchange: Exchange, outcome: Outcome) -> None:
        """Count one ended exchange."""
        self.ended[outcome] += 1
        self._outcomes[exchange.api.value, outcome].inc()
        if exchange.dispatched_us is not None:
            self._queue.observe((exchange.dispatched_us - exchange.arrival_us) / 1e6)
        if exchange.first_byte_us is not None:
            self._ttft.observe((exchange.first_byte_us - exchange.arrival_us) / 1e6)
        if exchange.done_us is not None:
            self._e2e.observe((exchange.done_us - exchange.arrival_us) / 1e6)
        if exchange.usage is not None and exchange.usage.completion_tokens:
            self._tokens.inc(exchange.usage.completion_tokens)

    def exposition(self) -> bytes:
        """The text of /metrics."""
        return generate_latest(self.registry)
