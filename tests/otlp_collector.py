"""An OTLP/HTTP collector of spans that decodes what an exporter sends, as a test wants to read it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web
from harness import proxy_before
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from proxy.app import Headway

ERROR = 2


class Collector:
    """An OTLP/HTTP receiver that keeps what it got; where it is `silent` it never answers."""

    def __init__(self) -> None:
        self.url = ""
        self.raw = b""
        self.silent = False
        self.resources: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.spans: list[Any] = []

    async def take(self, request: web.Request) -> web.Response:
        raw = await request.read()
        self.raw += raw
        self.headers.append(dict(request.headers))
        for group in ExportTraceServiceRequest.FromString(raw).resource_spans:
            self.resources.append(told(group.resource))
            self.spans += [span for scope in group.scope_spans for span in scope.spans]
        if self.silent:
            await asyncio.Event().wait()
        return web.Response()

    @property
    def span(self) -> Any:
        """The only one."""
        (span,) = self.spans
        return span


def told(thing: Any) -> dict[str, Any]:
    """The attributes of a span or resource."""

    def plain(value: Any) -> Any:
        kind = value.WhichOneof("value")
        return (
            [plain(one) for one in value.array_value.values]
            if kind == "array_value"
            else getattr(value, kind)
        )

    return {one.key: plain(one.value) for one in thing.attributes}


@contextlib.asynccontextmanager
async def traced(collector: Collector, *engines: str, **settings: Any) -> AsyncIterator[Headway]:
    """A proxy that traces; at its end the collector has what there is."""
    async with proxy_before(*engines, otel_endpoint=collector.url, **settings) as headway:
        yield headway
