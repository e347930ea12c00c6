"""On the real vLLM: what a client receives is what the engine sent, and the public SDK works unchanged."""

import json
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from crowd import headway_before
from recording_relay import RecordingRelay

from training.local_engines import RunningEngine

pytestmark = pytest.mark.engines

PROMPT = "Name the capital of France in one word."
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": PROMPT + " 0.5"}]},
    "/v1/completions": {"prompt": PROMPT},
}


def events(raw: bytes) -> list[bytes]:
    """The events of a stream, whole."""
    return [event for event in raw.split(b"\n\n") if event]


def is_usage_event(event: bytes) -> bool:
    """Whether it is the event that only stream_options.include_usage brings."""
    payload = event.removeprefix(b"data: ")
    return payload != b"[DONE]" and json.loads(payload)["choices"] == []


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("asks_for_usage", [False, True])
async def test_the_client_gets_what_the_engine_sent(
    vllm: RunningEngine, tmp_path: Path, path: str, stream: bool, asks_for_usage: bool
) -> None:
    """Byte for byte, in that very exchange, less only the usage event that we asked for and the client did not."""
    body = BODIES[path] | {"model": vllm.model, "max_tokens": 12, "temperature": 0, "stream": stream}
    if stream and asks_for_usage:
        body["stream_options"] = {"include_usage": True}
    async with (
        RecordingRelay("127.0.0.1", vllm.port) as relay,
        headway_before(vllm, tmp_path, url=relay.url) as headway,
        aiohttp.ClientSession() as session,
        session.post(headway.url + path, json=body) as response,
    ):
        assert response.status == 200
        received = await response.read()
    (exchange,) = [one for one in relay.exchanges if one.request.path == path]
    assert exchange.answer is not None
    sent = exchange.answer.body
    if stream and not asks_for_usage:
        whole = events(sent)
        assert sum(is_usage_event(event) for event in whole) == 1
        sent = b"".join(event + b"\n\n" for event in whole if not is_usage_event(event))
    assert received == sent
    assert exchange.request.body.startswith(json.dumps(body).encode()[:-1])


async def test_the_openai_sdk_works_unchanged(vllm: RunningEngine, tmp_path: Path) -> None:
    """Chat and completions, streaming and not, the model list, and an engine's own error through the SDK."""
    async with headway_before(vllm, tmp_path, mode="hold") as headway:
        client = openai.AsyncOpenAI(base_url=f"{headway.url}/v1", api_key="none", max_retries=0)
        chat: dict[str, Any] = {
            "model": vllm.model,
            "messages": [{"role": "user", "content": PROMPT + " 0.5"}],
            "max_tokens": 8,
            "temperature": 0,
        }
        whole = (await client.chat.completions.create(**chat)).choices[0].message.content
        chunks = [
            chunk.choices[0].delta.content or ""
            async for chunk in await client.chat.completions.create(**chat, stream=True)
        ]
        assert "".join(chunks) == whole
        completion = await client.completions.create(
            model=vllm.model, prompt=PROMPT, max_tokens=4, extra_body={"ignore_eos": True}
        )
        assert completion.usage is not None and completion.usage.completion_tokens == 4
        assert [model.id async for model in client.models.list()] == [vllm.model]
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            await client.chat.completions.create(**(chat | {"model": "no-such-model"}))
        two = await client.chat.completions.create(**(chat | {"temperature": 0.7}), n=2)
        assert len(two.choices) == 2
        await client.close()
    assert headway.status().outcomes == {"completed": 4, "engine_error": 1}
