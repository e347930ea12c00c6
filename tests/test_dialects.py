"""Tokens, ends and errors are read out of every API's answers alike, whole or in pieces."""

import json
from itertools import pairwise

import pytest
from fake_sglang import stream, unary
from hypothesis import given
from hypothesis import strategies as st

from predictor.request import Api
from proxy.answers import Usage
from proxy.dialects import decode_answer
from proxy.sse import StreamObserver, leading_error

ENDS = {
    Api.CHAT: "stop",
    Api.COMPLETIONS: "stop",
    Api.RESPONSES: "completed",
    Api.MESSAGES: "end_turn",
    Api.GENERATE: "stop",
}


def figures(usage: Usage | None) -> tuple[int | None, int | None, int | None] | None:
    """Prompt, output and cached tokens."""
    return usage and (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)


@pytest.mark.parametrize("api", list(Api))
def test_a_whole_answer_tells_tokens_and_end(api: Api) -> None:
    """The prompt counts whole, cached or not, whatever the API subtracts."""
    answer = decode_answer(json.dumps(unary(api)).encode(), api)
    assert figures(answer.usage) == (37, 8, 36)
    assert answer.finish_reason == ENDS[api]


@pytest.mark.parametrize("api", list(Api))
@given(cuts=st.lists(st.integers(0, 2000), max_size=6))
def test_a_stream_tells_the_same_wherever_it_is_cut(api: Api, cuts: list[int]) -> None:
    """Nothing depends on how the bytes arrive, and none of them is lost."""
    whole = b"".join(stream(api, usage=True))
    borders = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    observer = StreamObserver(drop_usage=False, api=api)
    got = b"".join(observer.feed(whole[a:b]) for a, b in pairwise(borders)) + observer.close()
    assert got == whole
    assert figures(observer.usage) == (37, 8, 36)
    assert observer.finish_reason == ENDS[api]
    assert not observer.failed


@pytest.mark.parametrize("reasons", [("length", "stop"), ("stop", "length")])
def test_of_several_answers_a_cut_one_is_told(reasons: tuple[str, str]) -> None:
    """Whole or streamed, in either order: together they are at least so long."""
    choices = [{"index": index, "finish_reason": reason} for index, reason in enumerate(reasons)]
    assert decode_answer(json.dumps({"choices": choices}).encode(), Api.CHAT).finish_reason == "length"
    observer = StreamObserver(drop_usage=False)
    for choice in choices:
        observer.feed(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
    assert observer.finish_reason == "length"


@pytest.mark.parametrize("api", list(Api))
def test_the_first_token_is_no_announcement(api: Api) -> None:
    """Comments, `response.created` and pings come before the engine has looked at the request."""
    observer = StreamObserver(drop_usage=False, api=api)
    early = [b": keep-alive\n\n"]
    if api is Api.RESPONSES:
        early += stream(api, usage=False)[:2]
    if api is Api.MESSAGES:
        early.append(b'event: ping\ndata: {"type":"ping"}\n\n')
    for event in early:
        observer.feed(event)
        assert not observer.answering
    rest = stream(api, usage=False)[2 if api is Api.RESPONSES else 0 :]
    observer.feed(rest[0])
    assert observer.answering


@pytest.mark.parametrize(
    ("api", "events"),
    [
        (Api.CHAT, [b'data: {"error":{"message":"no","code":503}}\n\n']),
        (Api.GENERATE, [b'data: {"error":{"message":"no","code":503,"retryable":false}}\n\n']),
        (
            Api.MESSAGES,
            [
                b'event: message_start\ndata: {"type":"message_start","message":{"usage":{}}}\n\n',
                b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"no"}}\n\n',
            ],
        ),
    ],
)
def test_a_refusal_in_a_stream_is_found_before_anything_goes_out(api: Api, events: list[bytes]) -> None:
    """An announcement is held back for the event after it, which may be an error."""
    observer = StreamObserver(drop_usage=False, api=api)
    for event in events:
        assert not observer.begun
        observer.feed(event)
    assert observer.begun
    assert leading_error(b"".join(events), api) == ("no", 503)


@pytest.mark.parametrize(
    ("api", "event"),
    [
        (Api.CHAT, b'data: {"choices":[{"finish_reason":"abort"}]}\n\n'),
        (Api.GENERATE, b'data: {"meta_info":{"finish_reason":{"type":"abort"}}}\n\n'),
        (Api.RESPONSES, b'data: {"type":"response.failed","response":{"status":"failed"}}\n\n'),
        (Api.RESPONSES, b'data: {"type":"error","message":"no"}\n\n'),
        (Api.MESSAGES, b'data: {"type":"error","error":{"type":"api_error","message":"no"}}\n\n'),
    ],
)
def test_a_stream_that_fails_is_no_answer(api: Api, event: bytes) -> None:
    """An abort, a failure, an error: it ended, but not with an answer."""
    observer = StreamObserver(drop_usage=False, api=api)
    assert observer.feed(event) == event
    assert observer.failed


def test_several_answers_of_generate_count_together() -> None:
    """SGLang reports the tokens of each prompt or sample by itself, in any order."""
    one = unary(Api.GENERATE)
    assert figures(decode_answer(json.dumps([one, one]).encode(), Api.GENERATE).usage) == (74, 16, 72)
    observer = StreamObserver(drop_usage=False, api=Api.GENERATE)
    for event in stream(Api.GENERATE, usage=False)[:2] * 2:
        observer.feed(event)
    assert figures(observer.usage) == (74, 16, 72)


@pytest.mark.parametrize(
    ("details", "end"),
    [
        ({"reason": "max_output_tokens"}, "length"),
        ({"reason": "content_filter"}, "content_filter"),
        (None, "incomplete"),
    ],
)
def test_a_response_that_was_cut_is_no_length(details: dict[str, str] | None, end: str) -> None:
    """`max_output_tokens` is what other APIs call length."""
    whole = unary(Api.RESPONSES) | {"status": "incomplete", "incomplete_details": details}
    assert decode_answer(json.dumps(whole).encode(), Api.RESPONSES).finish_reason == end


@pytest.mark.parametrize("api", list(Api))
@pytest.mark.parametrize(
    "raw", [b"[]", b"7", b'{"usage":7}', b'{"choices":{}}', b'{"meta_info":[]}', b'{"delta":1}']
)
def test_another_shape_says_nothing(api: Api, raw: bytes) -> None:
    """JSON of any shape is read without an error; it just tells nothing."""
    answer = decode_answer(raw, api)
    assert (answer.usage, answer.finish_reason) == (None, None)


@pytest.mark.parametrize("api", list(Api))
@pytest.mark.parametrize("raw", [b"", b"{", b"<html>", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_told(api: Api, raw: bytes) -> None:
    """Such an answer is garbage, whatever the API."""
    with pytest.raises(ValueError):
        decode_answer(raw, api)
