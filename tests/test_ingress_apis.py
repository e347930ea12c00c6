"""One view of all APIs' bodies: what belongs to another API is not judged, what an API may leave out is not missed."""

import pytest

from predictor.request import Api
from proxy.errors import HeadwayError
from proxy.ingress import parse_body

GOOD = b'{"messages":[{"role":"user","content":"hi"}]}'


@pytest.mark.parametrize(
    ("field", "api"),
    [
        (b'"input":5', Api.RESPONSES),
        (b'"thinking":true', Api.MESSAGES),
        (b'"prompt":{}', Api.COMPLETIONS),
        (b'"thinking":true,"max_tokens":"x"', Api.CHAT),
        (b'"th\\u0069nking":true,"thinking":true,"messages":5', Api.CHAT),
    ],
)
def test_only_another_apis_fields_may_hold_anything(field: bytes, api: Api) -> None:
    """What the engine of this API would read is checked, beside whatever stands in fields that it ignores."""
    with pytest.raises(HeadwayError):
        parse_body(GOOD[:-1] + b"," + field + b"}", api)


def test_a_prompts_embeddings_take_its_place() -> None:
    """vLLM's `prompt_embeds` come without a prompt; nothing else does."""
    parse_body(b'{"prompt_embeds":"AAAA"}', Api.COMPLETIONS)
    for api in (Api.CHAT, Api.RESPONSES, Api.MESSAGES):
        with pytest.raises(HeadwayError):
            parse_body(b'{"prompt_embeds":"AAAA"}', api)
