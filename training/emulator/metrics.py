"""The emulated engine's /metrics: vLLM's names, with the model's real values."""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from training.emulator.choice import Choice
from training.engine.model import EngineModel

_SECONDS: Final = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    20.0,
    40.0,
    80.0,
    160.0,
    640.0,
)
_TOKENS: Final = (
    1.0,
    2.0,
    5.0,
    10.0,
    20.0,
    50.0,
    100.0,
    200.0,
    500.0,
    1000.0,
    2000.0,
    5000.0,
    10000.0,
    20000.0,
)

_HISTOGRAMS: Final = {
    "time_to_first_token_seconds": _SECONDS,
    "request_time_per_output_token_seconds": _SECONDS,
    "e2e_request_latency_seconds": _SECONDS,
    "request_queue_time_seconds": _SECONDS,
    "request_inference_time_seconds": _SECONDS,
    "request_prefill_time_seconds": _SECONDS,
    "request_decode_time_seconds": _SECONDS,
    "inter_token_latency_seconds": _SECONDS,
    "request_prompt_tokens": _TOKENS,
    "request_generation_tokens": _TOKENS,
}


class _Histogram:
    """Counts per bucket. `weight` observations at once: all gaps between one answer's tokens in one call."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, weight: int = 1) -> None:
        self._counts[bisect_left(self._bounds, value)] += weight
        self.sum += value * weight

    def buckets(self) -> list[tuple[str, float]]:
        names = [*map(str, self._bounds), "+Inf"]
        return list(zip(names, map(float, accumulate(self._counts)), strict=True))


class EngineMetrics:
    """A Prometheus collector over the model's state and what finished answers report."""

    def __init__(self, model: EngineModel, model_name: str, *, prefix_caching: bool = True) -> None:
        self._model = model
        self._prefix_caching = prefix_caching
        self._labels = {"engine": "0", "model_name": model_name}
        self._histograms = {name: _Histogram(bounds) for name, bounds in _HISTOGRAMS.items()}
        self._finished = {"stop": 0, "length": 0, "abort": 0, "error": 0}
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self._registry)

    def aborted(self) -> None:
        """A client left before its answer was complete."""
        self._finished["abort"] += 1

    def finished(self, choice: Choice) -> None:
        """An answer is complete."""
        self._finished[choice.reason] += 1
        scheduled_s = choice.arrival_s + choice.queue_s
        observe = self._observe
        observe("time_to_first_token_seconds", choice.first_s - choice.arrival_s)
        observe("e2e_request_latency_seconds", choice.last_s - choice.arrival_s)
        observe("request_queue_time_seconds", choice.queue_s)
        observe("request_inference_time_seconds", choice.last_s - scheduled_s)
        observe("request_prefill_time_seconds", choice.first_s - scheduled_s)
        observe("request_decode_time_seconds", choice.last_s - choice.first_s)
        observe("request_prompt_tokens", choice.prompt_tokens)
        observe("request_generation_tokens", choice.tokens)
        if choice.tokens > 1:
            gap_s = (choice.last_s - choice.first_s) / (choice.tokens - 1)
            observe("request_time_per_output_token_seconds", gap_s)
            observe("inter_token_latency_seconds", gap_s, choice.tokens - 1)

    def collect(self) -> Iterator[Metric]:
        """The metric families, for the registry."""
        model = self._model
        counters = model.counters
        yield self._gauge("num_requests_running", model.num_running)
        yield self._gauge("num_requests_waiting", model.num_waiting)
        yield self._gauge("kv_cache_usage_perc", model.kv_usage)
        yield self._waiting_by_reason()
        yield self._counter("prefix_cache_queries", counters.prompt_tokens)
        yield self._counter("prefix_cache_hits", counters.prompt_tokens_cached)
        yield self._counter("num_preemptions", counters.preemptions)
        yield self._counter("prompt_tokens", counters.prompt_tokens)
        yield self._counter("prompt_tokens_cached", counters.prompt_tokens_cached)
        yield self._counter("generation_tokens", counters.generation_tokens)
        yield self._by_reason("request_success", "finished_reason", self._finished)
        yield self._by_reason("admission_rejections", "reason", {"max_num_queued_reqs": counters.refused})
        for name, histogram in self._histograms.items():
            yield self._histogram(name, histogram)
        yield self._cache_config()

    def _observe(self, name: str, value: float, weight: int = 1) -> None:
        self._histograms[name].observe(value, weight)

    def _gauge(self, name: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"vllm:{name}", name, labels=[*self._labels])
        family.add_metric([*self._labels.values()], value)
        return family

    def _counter(self, name: str, value: float) -> Metric:
        family = CounterMetricFamily(f"vllm:{name}", name, labels=[*self._labels])
        family.add_metric([*self._labels.values()], value)
        return family

    def _by_reason(self, name: str, label: str, values: dict[str, int]) -> Metric:
        family = CounterMetricFamily(f"vllm:{name}", name, labels=[*self._labels, label])
        for reason, value in values.items():
            family.add_metric([*self._labels.values(), reason], value)
        return family

    def _waiting_by_reason(self) -> Metric:
        name = "num_requests_waiting_by_reason"
        family = GaugeMetricFamily(f"vllm:{name}", name, labels=[*self._labels, "reason"])
        family.add_metric([*self._labels.values(), "capacity"], self._model.num_waiting)
        family.add_metric([*self._labels.values(), "deferred"], 0)
        return family

    def _histogram(self, name: str, histogram: _Histogram) -> Metric:
        family = HistogramMetricFamily(f"vllm:{name}", name, labels=[*self._labels])
        family.add_metric([*self._labels.values()], histogram.buckets(), histogram.sum)
        return family

    def _cache_config(self) -> Metric:
        profile = self._model.profile
        labels = {
            "block_size": str(profile.block_size),
            "num_gpu_blocks": str(profile.num_blocks),
            "enable_prefix_caching": str(self._prefix_caching),
            "prefix_cache_retention_interval": "0",
            "kv_cache_size_tokens": str(profile.num_blocks * profile.block_size),
            "engine": "0",
        }
        family = GaugeMetricFamily("vllm:cache_config_info", "cache_config_info", labels=[*labels])
        family.add_metric([*labels.values()], 1)
        return family
