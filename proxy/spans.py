"""One OpenTelemetry span per scheduled request, between the client's trace and the engine's spans.

Attributes are numbers and names by the GenAI and HTTP semantic conventions; never a prompt, never a key.
"""

import asyncio
import logging
import threading
from importlib.metadata import version
from typing import Final

from multidict import CIMultiDict, CIMultiDictProxy
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from predictor.records import Outcome, TrafficRecord
from predictor.request import Api
from proxy.clock import Clock

_LOG: Final = logging.getLogger("headway.spans")
_W3C: Final = TraceContextTextMapPropagator()
_PATH: Final = "/v1/traces"
_FLUSH_S: Final = 5.0
_LONGEST_NAME: Final = 256
_COMPLETES_TEXT: Final = frozenset({Api.COMPLETIONS, Api.GENERATE})
_NO_FAULT_HERE: Final = frozenset({Outcome.COMPLETED, Outcome.CLIENT_GONE})


class RequestSpan:
    """The span of one request, from its arrival to its one end."""

    def __init__(self, span: Span, api: Api, skew_us: int) -> None:
        """`skew_us`: how far the wall clock, by which engines and clients date theirs, is ahead of ours."""
        self._span = span
        self._api = api
        self._skew_us = skew_us

    def lead(self, headers: CIMultiDict[str]) -> None:
        """Make what the engine does for this request a part of this span, and not of the client's."""
        for name in _W3C.fields:
            headers.popall(name, None)
        _W3C.inject(headers, set_span_in_context(self._span))

    def end(self, record: TrafficRecord, now_us: int) -> None:
        """Say what came of the request."""
        span = self._span
        if not span.is_recording():
            return
        if record.model is not None:
            span.update_name(f"{_operation(self._api)} {_readable(record.model)}")
        span.set_attributes({key: value for key, value in _attributes(record).items() if value is not None})
        for event, after_s in (("dispatched", record.queue_s), ("first_byte", record.ttft_s)):
            if after_s is not None:
                span.add_event(event, timestamp=self._at_ns(record.arrival_us, after_s))
        if _failed(record):
            span.set_status(StatusCode.ERROR)
        ended_s = record.e2e_s if record.e2e_s is not None else (now_us - record.arrival_us) / 1e6
        span.end(self._at_ns(record.arrival_us, ended_s))

    def _at_ns(self, arrival_us: int, after_s: float) -> int:
        return (arrival_us + self._skew_us) * 1000 + round(after_s * 1e9)


class Spans:
    """Makes spans, and has a thread send them to a collector, which no request ever waits for."""

    def __init__(self, endpoint: str, clock: Clock) -> None:
        """`endpoint`: base URL of an OTLP/HTTP collector. Raises ValueError for an OTEL_* variable of no use."""
        # They quote what clients send, who could fill the log with it.
        logging.getLogger("opentelemetry.trace").setLevel(logging.ERROR)
        self._clock = clock
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        url = endpoint.rstrip("/").removesuffix(_PATH) + _PATH
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(url)))
        self._tracer = self._provider.get_tracer("headway", version("headway"))

    def begin(self, api: Api, arrival_us: int, headers: CIMultiDictProxy[str]) -> RequestSpan:
        """A request has come with these headers; the trace that they name goes on."""
        carrier = {name: ",".join(headers.getall(name)) for name in _W3C.fields if name in headers}
        skew_us = self._clock.skew_us()
        span = self._tracer.start_span(
            _operation(api),
            context=_W3C.extract(carrier),
            kind=SpanKind.SERVER,
            attributes={
                "gen_ai.operation.name": _operation(api),
                "http.request.method": "POST",
                "http.route": api.value,
            },
            start_time=(arrival_us + skew_us) * 1000,
        )
        return RequestSpan(span, api, skew_us)

    async def close(self) -> None:
        """Send what is left; what no collector takes within a few seconds is lost."""
        # The SDK's own limits are longer, and not kept where a collector accepts and is silent.
        sending = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        sending.start()
        await asyncio.to_thread(sending.join, _FLUSH_S)
        if sending.is_alive():
            _LOG.warning("the collector did not take the last spans within %g s", _FLUSH_S)


def _resource() -> Resource:
    """Who makes the spans: OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win over our own name."""
    ours = Resource({SERVICE_NAME: "headway", "service.version": version("headway")})
    return Resource.create(ours.merge(OTELResourceDetector().detect()).attributes)


def _operation(api: Api) -> str:
    return "text_completion" if api in _COMPLETES_TEXT else "chat"


def _attributes(record: TrafficRecord) -> dict[str, AttributeValue | None]:
    """By name, None where there is nothing to tell."""
    return {
        "http.response.status_code": record.status or None,
        "error.type": record.outcome.value if _failed(record) else None,
        "gen_ai.request.model": None if record.model is None else _readable(record.model),
        "gen_ai.request.max_tokens": record.max_tokens,
        "gen_ai.response.finish_reasons": None if record.finish_reason is None else [record.finish_reason],
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.cache_read.input_tokens": record.cached_tokens,
        "gen_ai.usage.output_tokens": record.output_tokens,
        "headway.request_id": record.request_id,
        "headway.outcome": record.outcome.value,
        "headway.class": record.class_name or None,
        "headway.tenant": _readable(record.tenant) or None,
        "headway.engine": record.replica,
        "headway.policy": record.policy,
        "headway.artifact": record.artifact,
        "headway.predicted_tokens": record.predicted_tokens,
        "headway.quantile": record.quantile,
        "headway.queue_ms": None if record.queue_s is None else record.queue_s * 1000,
    }


def _failed(record: TrafficRecord) -> bool:
    """By the conventions a client's own mistake is no error of the server's span."""
    return record.outcome not in _NO_FAULT_HERE and not 400 <= record.status < 500


def _readable(text: str) -> str:
    """What a client named, not longer than names are; one that is no UTF-8 would cost its whole batch."""
    return text[:_LONGEST_NAME].encode(errors="replace").decode()
