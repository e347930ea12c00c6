"""Public clients, unchanged, through the proxy before the real vLLM; each counts what it had answered."""

from collections import Counter
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from crowd import headway_before, on
from pydantic import BaseModel
from real_engines import EngineUnderTest

from proxy.app import Headway

pytestmark = pytest.mark.engines

PROMPT = "Name the capital of France in one word. 0.5"
OPENAI = f"openai {openai.__version__}"
ANTHROPIC = f"anthropic {anthropic.__version__}"
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
        },
    },
}


class Capital(BaseModel):
    """What a structured answer must hold."""

    capital: str
    country: str


def client_of(headway: Headway) -> openai.AsyncOpenAI:
    """The SDK as anybody makes it."""
    return openai.AsyncOpenAI(base_url=f"{headway.url}/v1", api_key="none", max_retries=0)


def user(text: str) -> Any:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


def calls_of(message: Any) -> list[tuple[str, str]]:
    """Name and arguments of each tool call."""
    return [(call.function.name, call.function.arguments) for call in message.tool_calls or []]


@on("vllm")
async def test_openai_chat_and_completions(
    real: EngineUnderTest, tmp_path: Path, tally: Counter[str]
) -> None:
    """Streaming and not, the model list, several answers, and an engine's own error as the SDK's exception."""
    async with headway_before(real, tmp_path) as headway, client_of(headway) as client:
        chat: dict[str, Any] = {
            "model": real.model,
            "messages": user(PROMPT),
            "max_tokens": 8,
            "temperature": 0,
        }
        whole = (await client.chat.completions.create(**chat)).choices[0].message.content
        chunks = [
            chunk.choices[0].delta.content or ""
            async for chunk in await client.chat.completions.create(**chat, stream=True)
        ]
        assert "".join(chunks) == whole
        usages = [
            chunk.usage
            async for chunk in await client.chat.completions.create(
                **chat, stream=True, stream_options={"include_usage": True}
            )
        ]
        assert usages[-1] is not None and usages[-1].completion_tokens
        completion = await client.completions.create(
            model=real.model, prompt=PROMPT, max_tokens=4, extra_body={"ignore_eos": True}
        )
        assert completion.usage is not None and completion.usage.completion_tokens == 4
        texts = [
            chunk.choices[0].text
            async for chunk in await client.completions.create(
                model=real.model, prompt=PROMPT, max_tokens=4, stream=True
            )
        ]
        assert texts
        assert [model.id async for model in client.models.list()] == [real.model]
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            await client.chat.completions.create(**(chat | {"model": "no-such-model"}))
        two = await client.chat.completions.create(**(chat | {"temperature": 0.7}), n=2)
        assert len(two.choices) == 2
        assert headway.status().outcomes == {"completed": 6, "engine_error": 1}
    tally[f"{OPENAI}: chat"] += 4
    tally[f"{OPENAI}: completions"] += 2


@on("vllm")
async def test_openai_responses(real: EngineUnderTest, tmp_path: Path, tally: Counter[str]) -> None:
    """Whole, and as events up to the one that carries the whole."""
    async with headway_before(real, tmp_path) as headway, client_of(headway) as client:
        asked: dict[str, Any] = {
            "model": real.model,
            "input": PROMPT,
            "max_output_tokens": 8,
            "temperature": 0,
        }
        whole = await client.responses.create(**asked)
        assert whole.output_text
        assert whole.usage is not None and whole.usage.output_tokens
        async with client.responses.stream(**asked) as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_response()
        assert kinds[0] == "response.created"
        assert kinds[-1] in ("response.completed", "response.incomplete")
        assert final.output_text == whole.output_text
        assert headway.status().outcomes == {"completed": 2}
    tally[f"{OPENAI}: responses"] += 2


@on("vllm")
async def test_openai_tools(real: EngineUnderTest, tmp_path: Path, tally: Counter[str]) -> None:
    """Left to the model, demanded, and named; whole and in pieces: what the SDK reads is what it reads without us.

    What so small a model puts into a call is its own affair.
    """
    asked: dict[str, Any] = {
        "model": real.model,
        "messages": user("What is the weather in Paris? 0.5"),
        "tools": [WEATHER],
        "max_tokens": 64,
        "temperature": 0,
    }
    named = {"type": "function", "function": {"name": "weather"}}
    async with (
        headway_before(real, tmp_path) as headway,
        client_of(headway) as client,
        openai.AsyncOpenAI(base_url=f"{real.base_url}/v1", api_key="none", max_retries=0) as direct,
    ):
        for choice in ("auto", "required", named):
            made, expected = [
                (await one.chat.completions.create(**asked, tool_choice=choice)).choices[0].message
                for one in (client, direct)
            ]
            assert made.content == expected.content
            assert calls_of(made) == calls_of(expected)
            assert choice == "auto" or [name for name, _ in calls_of(made)][:1] == ["weather"]
        pieces = [
            piece.function.arguments or ""
            async for chunk in await client.chat.completions.create(**asked, tool_choice=named, stream=True)
            if chunk.choices
            for piece in chunk.choices[0].delta.tool_calls or []
            if piece.function
        ]
        assert "".join(pieces)
        assert headway.status().outcomes == {"completed": 4}
    tally[f"{OPENAI}: tools"] += 4


@on("vllm")
async def test_openai_structured_outputs(real: EngineUnderTest, tmp_path: Path, tally: Counter[str]) -> None:
    """A schema by `response_format`, parsed by the SDK, and vLLM's own `structured_outputs` field."""
    async with headway_before(real, tmp_path) as headway, client_of(headway) as client:
        asked: dict[str, Any] = {"model": real.model, "messages": user(PROMPT), "temperature": 0}
        parsed = await client.chat.completions.parse(**asked, max_tokens=200, response_format=Capital)
        message = parsed.choices[0].message
        assert message.parsed is not None and message.parsed.country is not None
        chosen = await client.chat.completions.create(
            **asked, max_tokens=8, extra_body={"structured_outputs": {"choice": ["Paris", "Rome"]}}
        )
        assert chosen.choices[0].message.content in ("Paris", "Rome")
        assert headway.status().outcomes == {"completed": 2}
    tally[f"{OPENAI}: structured outputs"] += 2


@on("vllm", "sglang")
async def test_anthropic_messages(real: EngineUnderTest, tmp_path: Path, tally: Counter[str]) -> None:
    """Whole, streamed by the SDK's own helper, tokens counted, and a refusal in Anthropic's shape."""
    async with (
        headway_before(real, tmp_path) as headway,
        anthropic.AsyncAnthropic(base_url=headway.url, api_key="none", max_retries=0) as client,
    ):
        asked: dict[str, Any] = {
            "model": real.model,
            "max_tokens": 8,
            "messages": user(PROMPT),
            "extra_body": {"temperature": 0},
        }
        whole = await client.messages.create(**asked)
        assert whole.usage.output_tokens
        async with client.messages.stream(**asked) as stream:
            text = "".join([piece async for piece in stream.text_stream])
            final = await stream.get_final_message()
        assert [block.text for block in whole.content if block.type == "text"] == [text]
        assert final.stop_reason == whole.stop_reason
        counted = await client.messages.count_tokens(model=real.model, messages=user(PROMPT))
        assert counted.input_tokens
        with pytest.raises(anthropic.BadRequestError):
            await client.messages.create(**(asked | {"messages": user("word " * 9000)}))
        assert headway.status().outcomes == {"completed": 2, "engine_error": 1}
    tally[f"{ANTHROPIC}: messages ({real.kind})"] += 2
    tally[f"{ANTHROPIC}: count_tokens ({real.kind})"] += 1


@on("sglang")
async def test_openai_before_sglang(real: EngineUnderTest, tmp_path: Path, tally: Counter[str]) -> None:
    """The same SDK before the other engine."""
    async with headway_before(real, tmp_path) as headway, client_of(headway) as client:
        asked: dict[str, Any] = {"model": real.model, "temperature": 0}
        whole = await client.chat.completions.create(**asked, messages=user(PROMPT), max_tokens=8)
        chunks = [
            chunk.choices[0].delta.content or ""
            async for chunk in await client.chat.completions.create(
                **asked, messages=user(PROMPT), max_tokens=8, stream=True
            )
        ]
        assert "".join(chunks) == whole.choices[0].message.content
        completion = await client.completions.create(**asked, prompt=PROMPT, max_tokens=4)
        assert completion.usage is not None and completion.usage.completion_tokens
        response = await client.responses.create(**asked, input=PROMPT, max_output_tokens=8)
        assert response.output_text
        assert headway.status().outcomes == {"completed": 4}
    tally[f"{OPENAI}: chat, completions, responses (sglang)"] += 4
