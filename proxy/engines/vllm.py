"""vLLM 0.32: lower priority first, by header, on every scheduled route; usage by `stream_options`."""

from typing import Final

import msgspec

from predictor.request import Api, RequestBody
from proxy.engines.adapter import Load, Outgoing
from proxy.engines.gauges import GaugeNames, read_load
from proxy.splice import splice

# The header beats a `priority` in the body (vllm/entrypoints), so a client's own never counts.
PRIORITY_HEADER: Final = "X-Vllm-Priority"
USAGE_FIELD: Final = b'"stream_options":{"include_usage":true}'
_GAUGES: Final = GaugeNames(
    running=b"vllm:num_requests_running", waiting=b"vllm:num_requests_waiting", kv=b"vllm:kv_cache_usage_perc"
)
_USAGE_APIS: Final = (Api.CHAT, Api.COMPLETIONS)


class VllmAdapter(msgspec.Struct, frozen=True):
    """Speaks to vLLM's OpenAI server."""

    @property
    def kind(self) -> str:
        return "vllm"

    @property
    def health_path(self) -> str:
        return "/health"

    @property
    def takes_priority(self) -> bool:
        return True

    def load(self, metrics: bytes) -> Load | None:
        return read_load(metrics, _GAUGES)

    def outgoing(self, api: Api, raw: bytes, body: RequestBody, priority: int | None) -> Outgoing:
        headers = {PRIORITY_HEADER: str(priority or 0)}
        # A client that sends stream_options itself keeps them as sent, whatever they say.
        if body.stream and body.stream_options is None and api in _USAGE_APIS:
            return Outgoing(splice(raw, (USAGE_FIELD,)), headers, added_usage=True)
        return Outgoing(raw, headers, added_usage=False)
