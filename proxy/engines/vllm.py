"""vLLM 0.32: lower priority first, by header, on every scheduled route; usage by `stream_options`."""

from typing import Final

import msgspec

from predictor.request import Api, RequestBody
from proxy.engines.adapter import Load, Outgoing, Turn
from proxy.engines.fields import USAGE_FIELD, asks_for_usage, response_id
from proxy.engines.gauges import GaugeNames, read_load
from proxy.splice import splice

# Beats a `priority` in the body, and is all that /v1/messages takes (entrypoints/generate/base/serving.py).
PRIORITY_HEADER: Final = "X-Vllm-Priority"
_GAUGES: Final = GaugeNames(
    running=b"vllm:num_requests_running", waiting=b"vllm:num_requests_waiting", kv=b"vllm:kv_cache_usage_perc"
)


# --max-num-queued-reqs and --max-num-queued-tokens (vllm/exceptions.py).
_FULL: Final = (b"busy", b"backlog")


class VllmAdapter(msgspec.Struct, frozen=True):
    """Speaks to vLLM's OpenAI server. It aborts by itself when the connection closes (0.24 s)."""

    @property
    def kind(self) -> str:
        return "vllm"

    @property
    def health_path(self) -> str:
        return "/health"

    def is_healthy(self, status: int) -> bool:
        return status == 200

    @property
    def orders_requests(self) -> bool:
        return True

    def load(self, metrics: bytes) -> Load | None:
        return read_load(metrics, _GAUGES)

    def is_full(self, status: int, said: bytes) -> bool:
        return status == 503 and any(word in said for word in _FULL)

    def outgoing(
        self, api: Api, raw: bytes, body: RequestBody, turn: Turn | None, request_id: str
    ) -> Outgoing:
        headers = {"X-Request-Id": request_id}
        if turn is not None:
            headers[PRIORITY_HEADER] = str(turn.number)
        fields = []
        added_usage = asks_for_usage(api, body)
        if added_usage:
            fields.append(USAGE_FIELD)
        stored_as = response_id(request_id) if api is Api.RESPONSES else None
        if stored_as is not None:
            fields.append(b'"request_id":"%b"' % stored_as.encode())
        return Outgoing(
            splice(raw, fields),
            headers,
            added_usage,
            rank=None if turn is None else turn.number,
            stored_as=stored_as,
        )
