"""The emulated engine looks on the wire as vLLM does: bodies, events, headers and its lesser routes."""

import aiohttp
from emulation import CHAT, COMPLETIONS, MESSAGES, MODEL, RESPONSES, chat, emulated, events, post

TIMING = ["time_to_first_token_ms", "generation_time_ms", "queue_time_ms", "mean_itl_ms", "tokens_per_second"]


async def test_chat_bodies_have_vllms_keys() -> None:
    """Key for key and in order, as captured from vLLM 0.32."""
    async with emulated([7]) as engine:
        _, body = await post(engine, CHAT, chat())
        assert [*body] == [
            *("id", "object", "created", "model", "choices", "service_tier", "system_fingerprint", "usage"),
            *("prompt_logprobs", "prompt_token_ids", "prompt_text", "kv_transfer_params"),
            *("ec_transfer_params", "metrics"),
        ]
        [choice] = body["choices"]
        assert [*choice] == [
            *("index", "message", "logprobs", "finish_reason", "stop_reason", "token_ids", "routed_experts")
        ]
        assert [*body["metrics"]] == [*TIMING, "speculative_decoding"]
        assert body["usage"] == {
            "prompt_tokens": 15,
            "total_tokens": 22,
            "completion_tokens": 7,
            "prompt_tokens_details": {
                "cached_tokens": 0,
                "created_cache_tokens": 0,
                "multimodal_tokens": None,
            },
            "completion_tokens_details": None,
        }


async def test_chat_streams_have_vllms_events() -> None:
    """Without include_usage no event has a usage key, and the fingerprint is on the last chunk."""
    async with emulated([3]) as engine:
        found = [data for _, data in await events(engine, CHAT, chat())]
        role, first, second, last, done = found
        head = ["id", "object", "created", "model", "choices"]
        assert [*role] == [*head, "prompt_token_ids", "prompt_text"]
        assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert [*first] == [*second] == head
        assert [*first["choices"][0]] == ["index", "delta", "logprobs", "finish_reason", "token_ids"]
        assert [*last] == [*head, "system_fingerprint"]
        assert last["choices"][0]["delta"] == {"content": ""}
        assert last["choices"][0]["finish_reason"] == "stop"
        assert done == "[DONE]"


async def test_include_usage_brings_a_separate_event_before_done() -> None:
    """`choices` empty, the fingerprint and the timing there and nowhere else."""
    async with emulated([3]) as engine:
        found = await events(engine, CHAT, chat(stream_options={"include_usage": True}))
        *chunks, (_, usage), (_, done) = found
        assert done == "[DONE]"
        assert usage["choices"] == []
        assert [*usage][4:] == ["choices", "usage", "system_fingerprint", "metrics"]
        assert usage["usage"]["completion_tokens"] == 3
        assert [*usage["metrics"]] == TIMING
        assert not any("usage" in chunk or "system_fingerprint" in chunk for _, chunk in chunks)


async def test_continuous_usage_counts_up() -> None:
    """`continuous_usage_stats`: every chunk says how many tokens there are so far."""
    async with emulated([3]) as engine:
        options = {"include_usage": True, "continuous_usage_stats": True}
        found = await events(engine, CHAT, chat(stream_options=options))
        assert [data["usage"]["completion_tokens"] for _, data in found[:-1]] == [0, 1, 2, 3, 3]


async def test_completions_have_vllms_shape() -> None:
    """Text chunks without a role chunk; choices of several prompts are numbered through."""
    async with emulated([3]) as engine:
        body = {"model": MODEL, "prompt": "The capital of France is"}
        first, _, last, done = (data for _, data in await events(engine, COMPLETIONS, body))
        assert [*first["choices"][0]] == [
            *("index", "text", "logprobs", "finish_reason", "stop_reason", "prompt_token_ids", "token_ids")
        ]
        assert last["choices"][0]["finish_reason"] == "stop"
        assert done == "[DONE]"
        _, two = await post(engine, COMPLETIONS, body | {"prompt": ["One", [1, 2, 3]], "n": 2, "seed": 1})
        assert [choice["index"] for choice in two["choices"]] == [0, 1, 2, 3]
        assert two["usage"]["prompt_tokens"] == 1 + 3
        assert two["metrics"] is None


async def test_responses_start_before_the_first_token() -> None:
    """`response.created` does not wait for a slot; event names and sequence numbers are vLLM's."""
    async with emulated([2]) as engine:
        found = await events(engine, RESPONSES, {"model": MODEL, "input": "Say hi."})
        names = [name.removeprefix("response.") for name, _ in found]
        assert names == [
            *("created", "in_progress", "output_item.added", "content_part.added", "output_text.delta"),
            *("output_text.done", "content_part.done", "output_item.done", "completed"),
        ]
        assert [data["sequence_number"] for _, data in found] == list(range(9))
        assert found[-1][1]["response"]["usage"]["output_tokens"] == 2


async def test_messages_have_vllms_events() -> None:
    """Named events; usage with the stop reason."""
    async with emulated([3]) as engine:
        found = await events(engine, MESSAGES, chat(max_tokens=10))
        assert [name for name, _ in found] == [
            *("message_start", "content_block_start", "content_block_delta", "content_block_delta"),
            *("content_block_stop", "message_delta", "message_stop"),
        ]
        assert found[-2][1]["usage"]["output_tokens"] == 3


async def test_optional_fields_need_their_flags() -> None:
    """Without `--enable-prompt-tokens-details` and `--enable-per-request-metrics` they are null or absent."""
    async with emulated(enable_prompt_tokens_details=False, enable_per_request_metrics=False) as engine:
        _, body = await post(engine, CHAT, chat())
        assert body["usage"]["prompt_tokens_details"] is None
        assert body["metrics"] is None
        found = await events(engine, CHAT, chat(stream_options={"include_usage": True}))
        assert "prompt_tokens_details" not in found[-2][1]["usage"]
        assert "metrics" not in found[-2][1]


async def test_it_says_what_it_is() -> None:
    """A header on every answer, good or bad, streamed or not; ids and version are vLLM's all the same."""
    async with emulated() as engine, aiohttp.ClientSession() as session:
        for path, body in ((CHAT, chat()), (CHAT, chat(stream=True)), (CHAT, {}), ("/nope", {})):
            async with session.post(engine.url + path, json=body) as response:
                assert response.headers["x-emulated-engine"] == "headway"
        async with session.get(engine.url + "/version") as response:
            assert [*await response.json()] == ["version"]
        async with session.get(engine.url + "/health") as response:
            assert (response.status, await response.read()) == (200, b"")
        async with session.get(engine.url + "/v1/models") as response:
            [model] = (await response.json())["data"]
            assert (model["id"], model["max_model_len"]) == (MODEL, 4096)
        _, answer = await post(engine, CHAT, chat(), **{"X-Request-Id": "my-id-1"})
        assert answer["id"] == "chatcmpl-my-id-1"


async def test_logprobs_have_their_shape() -> None:
    """Filler values: one entry per token, with as many alternatives as asked for."""
    async with emulated([4]) as engine:
        _, body = await post(engine, CHAT, chat(logprobs=True, top_logprobs=2))
        content = body["choices"][0]["logprobs"]["content"]
        assert [len(entry["top_logprobs"]) for entry in content] == [2, 2, 2]
        found = await events(engine, CHAT, chat(logprobs=True))
        assert found[1][1]["choices"][0]["logprobs"]["content"][0]["token"]


async def test_it_remembers_what_it_received() -> None:
    """`received` keeps path, headers and raw body of the newest requests, for tests of a proxy."""
    async with emulated(keep_received=2) as engine:
        for seed in (1, 2, 3):
            await post(engine, CHAT, chat(seed=seed), **{"X-Vllm-Priority": str(seed)})
        assert [received.headers["X-Vllm-Priority"] for received in engine.received] == ["2", "3"]
        assert b'"seed": 3' in engine.received[-1].body
