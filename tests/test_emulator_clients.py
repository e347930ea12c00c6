"""The real clients of OpenAI and Anthropic read what the emulated engine answers."""

import anthropic
import openai
from emulation import HELLO, MODEL, emulated

from training.emulator import EmulatedEngine


def openai_client(engine: EmulatedEngine) -> openai.AsyncOpenAI:
    """The real client, without retries."""
    return openai.AsyncOpenAI(base_url=f"{engine.url}/v1", api_key="none", max_retries=0)


async def test_the_openai_client_gets_an_answer() -> None:
    """Unary chat: the recorded length, filler text, and an honest fingerprint."""
    async with emulated([7]) as engine, openai_client(engine) as client:
        answer = await client.chat.completions.create(model=MODEL, messages=HELLO)
        assert answer.choices[0].finish_reason == "stop"
        assert len((answer.choices[0].message.content or "").split()) == 6  # and the end-of-sequence token
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 7
        assert answer.system_fingerprint == "emulated"


async def test_the_openai_client_streams_one_chunk_per_token() -> None:
    """Role chunk, a chunk per token, a usage event of its own."""
    async with emulated([7]) as engine, openai_client(engine) as client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert [len(chunk.choices) for chunk in chunks] == [1] * 8 + [0]
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 7
        assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * 7 + ["stop"]


async def test_the_openai_client_uses_completions_and_responses() -> None:
    """The other OpenAI dialects parse too, streaming and not."""
    async with emulated([6]) as engine, openai_client(engine) as client:
        completion = await client.completions.create(model=MODEL, prompt=["One", "Two"], max_tokens=3)
        assert [choice.finish_reason for choice in completion.choices] == ["length", "length"]
        response = await client.responses.create(model=MODEL, input="Say hi.")
        assert response.status == "completed"
        assert response.usage is not None
        assert response.usage.output_tokens == 6
        stream = await client.responses.create(model=MODEL, input="Say hi.", stream=True, max_output_tokens=4)
        kinds = [event.type async for event in stream]
        assert kinds.count("response.output_text.delta") == 4
        assert kinds[-1] == "response.completed"


async def test_the_anthropic_client_gets_messages() -> None:
    """/v1/messages parses with Anthropic's client, streaming and not."""
    async with (
        emulated([6]) as engine,
        anthropic.AsyncAnthropic(base_url=engine.url, api_key="none", max_retries=0) as client,
    ):
        message = await client.messages.create(model=MODEL, messages=HELLO, max_tokens=100)
        assert (message.stop_reason, message.usage.output_tokens) == ("end_turn", 6)
        async with client.messages.stream(model=MODEL, messages=HELLO, max_tokens=3) as stream:
            final = await stream.get_final_message()
        assert (final.stop_reason, final.usage.output_tokens) == ("max_tokens", 3)
