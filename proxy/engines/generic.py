"""Any OpenAI-compatible server: nothing is asked of it beyond the API, so the proxy alone orders."""

import msgspec

from predictor.request import Api, RequestBody
from proxy.engines.adapter import Load, Outgoing, Turn
from proxy.engines.fields import USAGE_FIELD, asks_for_usage
from proxy.splice import splice


class GenericAdapter(msgspec.Struct, frozen=True):
    """Speaks OpenAI's API and no more. `asks_usage`: whether the server is known to take `stream_options`."""

    health_path: str = "/v1/models"
    asks_usage: bool = True

    @property
    def kind(self) -> str:
        return "generic"

    def is_healthy(self, status: int) -> bool:
        # 401: it is there, and the clients have the key. 404: it has no list of models.
        return status < 500

    @property
    def orders_requests(self) -> bool:
        return False

    def load(self, metrics: bytes) -> Load | None:  # noqa: ARG002 - nobody knows its names
        return None

    def is_full(self, status: int, said: bytes) -> bool:  # noqa: ARG002 - a limit may as well be the client's
        return False

    def outgoing(
        self,
        api: Api,
        raw: bytes,
        body: RequestBody,
        turn: Turn | None,  # noqa: ARG002 - there is no way to tell this server
        request_id: str,
    ) -> Outgoing:
        headers = {"X-Request-Id": request_id}
        if self.asks_usage and asks_for_usage(api, body):
            return Outgoing(splice(raw, (USAGE_FIELD,)), headers, added_usage=True)
        return Outgoing(raw, headers, added_usage=False)
