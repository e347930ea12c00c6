"""The query's promises: it renders as the request does, asks for one token, and reads numbers or says why not."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.request import Api
from predictor.self_query import (
    OPENINGS,
    SELF_NAMES,
    NoQuery,
    SelfQuery,
    build_query,
    read_signals,
    signals_of,
)

HELLO = [{"role": "user", "content": "Hello"}]


def query(body: dict[str, Any], api: Api = Api.CHAT, ids: tuple[int, ...] = (7, 8)) -> dict[str, Any]:
    """The query's body, decoded."""
    built = build_query(msgspec.json.encode(body), api, tool_choice="none", token_ids=ids)
    assert isinstance(built, SelfQuery)
    return {"path": built.api.value, **msgspec.json.decode(built.body)}


def test_what_renders_goes_along_and_nothing_else() -> None:
    """The prompt is rendered alike, in the same cache; no option of the answer survives."""
    renders = {"model": "m", "messages": HELLO, "tools": [{"type": "function"}], "cache_salt": "s",
               "chat_template_kwargs": {"enable_thinking": False}, "add_generation_prompt": True}  # fmt: skip
    options = {"stream": True, "stream_options": {"include_usage": True}, "n": 4, "stop": ["x"], "seed": 3,
               "max_tokens": 900, "max_completion_tokens": 900, "min_tokens": 9, "ignore_eos": True,
               "response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a+"},
               "logit_bias": {"5": 100}, "temperature": 0.7, "tool_choice": "required", "priority": 3}  # fmt: skip
    asked = query(renders | options)
    assert asked == renders | {
        "path": "/v1/chat/completions", "max_tokens": 1, "temperature": 0, "stream": False, "logprobs": True,
        "logprob_token_ids": [7, 8], "tool_choice": "none",
    }  # fmt: skip


def test_an_engine_without_chosen_tokens_gives_its_likeliest() -> None:
    """Where token ids are not known, the twenty likeliest are asked for."""
    asked = query({"messages": HELLO}, ids=())
    assert (asked["top_logprobs"], "logprob_token_ids" in asked) == (20, False)
    assert query({"prompt": "Once"}, Api.COMPLETIONS, ())["logprobs"] == 20


def test_completions_take_text_or_the_ids_of_one_prompt() -> None:
    """One prompt is one query; several prompts have several answers and are not asked about."""
    assert query({"prompt": [1, 2, 3]}, Api.COMPLETIONS)["prompt"] == [1, 2, 3]
    several = msgspec.json.encode({"prompt": ["a", "b"]})
    assert build_query(several, Api.COMPLETIONS, tool_choice="none", token_ids=()) is NoQuery.FORM


def test_plain_messages_are_asked_as_a_chat() -> None:
    """Anthropic's route has no log-probabilities; its plain turns and system prompt render as a chat's."""
    body = {"system": "Be kind.", "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]}
    asked = query(body, Api.MESSAGES)
    assert asked["path"] == "/v1/chat/completions"
    assert asked["messages"] == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("body", "api", "reason"),
    [
        ({"messages": HELLO, "tools": [{"name": "t"}]}, Api.MESSAGES, NoQuery.FORM),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, Api.MESSAGES, NoQuery.FORM),
        ({"input": "Hello"}, Api.RESPONSES, NoQuery.ROUTE),
        ({"text": "Hello"}, Api.GENERATE, NoQuery.ROUTE),
        ({"messages": [{"role": "user", "content": "x" * 300_000}]}, Api.CHAT, NoQuery.LONG),
    ],
)
def test_what_cannot_be_asked_has_its_reason(body: dict[str, Any], api: Api, reason: NoQuery) -> None:
    """Whoever is not asked about is counted with the reason."""
    assert build_query(msgspec.json.encode(body), api, tool_choice="none", token_ids=()) is reason


@pytest.mark.parametrize("hidden", [b"1e999", b'"\\ud800"', b"[" * 3000 + b"]" * 3000])
def test_what_only_an_engine_reads_is_not_asked_about(hidden: bytes) -> None:
    """A field that is skipped on the way in may hold anything; it must not break the asking."""
    raw = b'{"messages":[{"role":"user","content":"x"}],"documents":[%b]}' % hidden
    assert build_query(raw, Api.CHAT, tool_choice="none", token_ids=()) is NoQuery.FORM


@given(st.dictionaries(st.sampled_from([*OPENINGS, "other", "<|im_end|>"]), st.floats(-80, 0), min_size=1))
def test_every_signal_is_a_finite_number_of_the_schema(tokens: dict[str, float]) -> None:
    """Whatever is listed, each feature has a value, and an opening that is not listed is no likelier than the
    least likely one that is."""
    signals = signals_of(tokens)
    assert set(signals) == set(SELF_NAMES)
    assert all(math.isfinite(value) for value in signals.values())
    assert signals["self.top_logprob"] == max(max(-30.0, value) for value in tokens.values())
    if "Yes" not in tokens:
        assert signals["self.opens.Yes"] == min(max(-30.0, value) for value in tokens.values())


def test_both_shapes_of_log_probabilities_are_read() -> None:
    """Chat lists tokens, completions map them."""
    chat = {
        "content": [
            {"top_logprobs": [{"token": "Yes", "logprob": -0.1}, {"token": "<|im_end|>", "logprob": -4}]}
        ]
    }
    text = {"top_logprobs": [{"Yes": -0.1, "<|im_end|>": -4}]}
    read = [read_signals(msgspec.json.encode({"choices": [{"logprobs": shape}]})) for shape in (chat, text)]
    assert read[0] == read[1]
    assert (read[0]["self.opens.Yes"], read[0]["self.end_logprob"]) == (-0.1, -4)


@pytest.mark.parametrize(
    "answer",
    [b"", b"{", b"[]",
     b'{"choices":[]}', b'{"choices":[{"logprobs":null}]}', b'{"choices":[{"logprobs":{"content":[]}}]}',
     b'{"choices":[{"logprobs":{"top_logprobs":[{}]}}]}', b'{"choices":[{"logprobs":{"top_logprobs":[{"a":"b"}]}}]}',
     b'{"choices":[{"logprobs":{"top_logprobs":[{"a":5}]}}]}'],
)  # fmt: skip
def test_an_answer_without_log_probabilities_is_no_signal(answer: bytes) -> None:
    """Garbage is one clear error."""
    with pytest.raises(ValueError, match="no log-probabilities"):
        read_signals(answer)
