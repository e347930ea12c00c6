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
    built = build_query(msgspec.json.encode(body), api, sglang=False, token_ids=ids)
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


def by_ids(body: dict[str, Any], api: Api = Api.CHAT) -> tuple[SelfQuery, dict[str, Any]]:
    """The query for an SGLang whose openings are known, and its body decoded."""
    built = build_query(msgspec.json.encode(body), api, sglang=True, token_ids=(7, 8))
    assert isinstance(built, SelfQuery)
    return built, msgspec.json.decode(built.body)


BY_IDS = {
    "sampling_params": {"max_new_tokens": 1, "temperature": 0}, "return_logprob": True,
    "return_text_in_logprobs": True, "token_ids_logprob": [7, 8],
}  # fmt: skip


def test_sglang_renders_a_conversation_first() -> None:
    """Chosen tokens are had on /generate alone: the engine's own template makes the ids, in the request's cache."""
    tools = [{"type": "function"}]
    chat = {"model": "m", "messages": HELLO, "tools": tools, "cache_salt": "s", "extra_key": "k", "n": 3}
    built, body = by_ids(chat | {"tool_choice": "required", "stream": True})
    assert built.api is Api.GENERATE
    assert built.render is not None
    rendered = {"model": "m", "messages": HELLO, "tools": tools, "cache_salt": "s", "extra_key": "k"}
    assert msgspec.json.decode(built.render) == rendered | {"tool_choice": "auto"}
    assert body == BY_IDS | {"cache_salt": "s", "extra_key": "k"}
    made = built.with_tokens(b'{"tokens":[5,6],"count":2,"max_model_len":99}')
    assert (made.api, made.render) == (Api.GENERATE, None)
    assert msgspec.json.decode(made.body) == body | {"input_ids": [5, 6]}


def test_tools_that_may_not_be_called_stay_out_of_sglangs_prompt() -> None:
    """SGLang takes them out of the request's prompt, so they are not in the query's."""
    built, _ = by_ids({"messages": HELLO, "tools": [{}], "tool_choice": "none"})
    assert built.render is not None
    assert msgspec.json.decode(built.render)["tool_choice"] == "none"


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b'{"tokens":null}', b'{"tokens":[[1],[2]]}', b'{"error":"no"}']
)
def test_an_answer_without_tokens_is_no_prompt(answer: bytes) -> None:
    """Garbage is one clear error."""
    with pytest.raises(ValueError, match="no tokens"):
        by_ids({"messages": HELLO})[0].with_tokens(answer)


@pytest.mark.parametrize(
    "chat",
    [
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}]},
        {"messages": HELLO, "model": "base:adapter"},
    ],
)
def test_where_ids_are_not_the_whole_prompt_sglang_is_asked_by_the_chat(chat: dict[str, Any]) -> None:
    """A picture, or an adapter that is named with the model, would be lost: the twenty likeliest will do."""
    built, body = by_ids(chat)
    assert (built.api, built.render, body["top_logprobs"]) == (Api.CHAT, None, 20)
    assert "logprob_token_ids" not in body


@pytest.mark.parametrize(
    ("body", "api", "asked"),
    [
        ({"prompt": "Once"}, Api.COMPLETIONS, {"text": "Once"}),
        ({"prompt": [1, 2], "lora_path": "l"}, Api.COMPLETIONS, {"input_ids": [1, 2], "lora_path": "l"}),
        ({"text": "Once", "stream": True, "sampling_params": {"n": 2}}, Api.GENERATE, {"text": "Once"}),
        ({"input_ids": [1, 2], "rid": "x"}, Api.GENERATE, {"input_ids": [1, 2]}),
    ],
)
def test_sglang_takes_one_prompt_as_it_is(body: dict[str, Any], api: Api, asked: dict[str, Any]) -> None:
    """Text and ids need no rendering, on its own route as on OpenAI's."""
    built, found = by_ids(body, api)
    assert (built.api, built.render, found) == (Api.GENERATE, None, BY_IDS | asked)


@pytest.mark.parametrize(
    "body",
    [{"text": ["a", "b"]}, {"input_ids": [[1], [2]]}, {"input_embeds": [[0.1]]}, {"text": "a", "image_data": "x"}, {}],
)  # fmt: skip
def test_sglangs_own_route_with_more_than_one_text_is_not_asked_about(body: dict[str, Any]) -> None:
    """Several prompts have several answers; pictures are not in the text."""
    raw = msgspec.json.encode(body)
    assert build_query(raw, Api.GENERATE, sglang=True, token_ids=(7,)) is NoQuery.FORM


def test_completions_take_text_or_the_ids_of_one_prompt() -> None:
    """One prompt is one query; several prompts have several answers and are not asked about."""
    assert query({"prompt": [1, 2, 3]}, Api.COMPLETIONS)["prompt"] == [1, 2, 3]
    several = msgspec.json.encode({"prompt": ["a", "b"]})
    assert build_query(several, Api.COMPLETIONS, sglang=False, token_ids=()) is NoQuery.FORM


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
    assert build_query(msgspec.json.encode(body), api, sglang=False, token_ids=()) is reason


@pytest.mark.parametrize("hidden", [b"1e999", b'"\\ud800"', b"[" * 3000 + b"]" * 3000])
def test_what_only_an_engine_reads_is_not_asked_about(hidden: bytes) -> None:
    """A field that is skipped on the way in may hold anything; it must not break the asking."""
    raw = b'{"messages":[{"role":"user","content":"x"}],"documents":[%b]}' % hidden
    assert build_query(raw, Api.CHAT, sglang=False, token_ids=()) is NoQuery.FORM


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


def test_every_shape_of_log_probabilities_is_read() -> None:
    """Chat lists tokens, completions map them, SGLang's own route lists values, ids and texts."""
    chat = {
        "content": [
            {"top_logprobs": [{"token": "Yes", "logprob": -0.1}, {"token": "<|im_end|>", "logprob": -4}]}
        ]
    }
    text = {"top_logprobs": [{"Yes": -0.1, "<|im_end|>": -4}]}
    read = [read_signals(msgspec.json.encode({"choices": [{"logprobs": shape}]})) for shape in (chat, text)]
    native = {"output_token_ids_logprobs": [[[-0.1, 11, "Yes"], [-4, 2, "<|im_end|>"]]]}
    read.append(read_signals(msgspec.json.encode({"text": "Yes", "meta_info": native})))
    assert read[0] == read[1] == read[2]
    assert (read[0]["self.opens.Yes"], read[0]["self.end_logprob"]) == (-0.1, -4)


@pytest.mark.parametrize(
    "answer",
    [b"", b"{", b"[]",
     b'{"choices":[]}', b'{"choices":[{"logprobs":null}]}', b'{"choices":[{"logprobs":{"content":[]}}]}',
     b'{"choices":[{"logprobs":{"top_logprobs":[{}]}}]}', b'{"choices":[{"logprobs":{"top_logprobs":[{"a":"b"}]}}]}',
     b'{"choices":[{"logprobs":{"top_logprobs":[{"a":5}]}}]}', b'{"meta_info":{}}',
     b'{"meta_info":{"output_token_ids_logprobs":[]}}', b'{"meta_info":{"output_token_ids_logprobs":[[[1]]]}}'],
)  # fmt: skip
def test_an_answer_without_log_probabilities_is_no_signal(answer: bytes) -> None:
    """Garbage is one clear error."""
    with pytest.raises(ValueError, match="no log-probabilities"):
        read_signals(answer)
