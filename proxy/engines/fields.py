"""Body fields that we add and that several engines take."""

from typing import Final

from predictor.request import Api, RequestBody

USAGE_FIELD: Final = b'"stream_options":{"include_usage":true}'
_USAGE_APIS: Final = (Api.CHAT, Api.COMPLETIONS)


def asks_for_usage(api: Api, body: RequestBody) -> bool:
    """Whether we ask: only where the client has said nothing. `stream_options` stay as sent, whatever they say."""
    return bool(body.stream) and body.stream_options is None and api in _USAGE_APIS


def response_id(request_id: str) -> str:
    """The `request_id` of a /v1/responses body, under which both engines store and return the response."""
    return f"resp_{request_id}"
