"""The emulated engine answers as vLLM does: shapes, order, refusals, disconnects."""

import asyncio
from typing import Any

import aiohttp
import anthropic
import openai
import pytest
from emulation import HELLO, MODEL, chat, emulated, events, exactly, metrics, post, quick_profile, until

from training.emulator import EmulatedEngine
from training.engine import SchedulingPolicy
from training.lengths import LengthTable
from training.prompts import Message

CHAT, COMPLETIONS, RESPONSES, MESSAGES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
)
TIMING = ["time_to_first_token_ms", "generation_time_ms", "queue_time_ms", "mean_itl_ms", "tokens_per_second"]


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


async def test_n_answers_are_n_sequences() -> None:
    """Each choice has its own length and end; the prompt counts once."""
    async with emulated([2, 3, 4, 5, 6, 7, 8]) as engine:
        _, body = await post(engine, CHAT, chat(n=3, seed=5))
        lengths = [len(choice["message"]["content"].split()) + 1 for choice in body["choices"]]
        table = engine.lengths
        turns = [Message("user", HELLO[0]["content"])]
        assert lengths == [table.true_length(turns, seed) for seed in (5, 6, 7)]
        assert body["usage"]["completion_tokens"] == sum(lengths)
        found = [data for _, data in await events(engine, CHAT, chat(n=3, seed=5))]
        assert [data["choices"][0]["delta"].get("role") for data in found[:4]] == ["assistant"] * 3 + [None]
        ends = [data["choices"][0]["index"] for data in found[:-1] if data["choices"][0]["finish_reason"]]
        assert sorted(ends) == [0, 1, 2]


async def test_the_seed_picks_the_length_and_the_oracle_knows_it() -> None:
    """Same seed, same length, in any order; max_tokens cuts it and says so."""
    table = LengthTable.of_lengths(range(2, 60), seed=3)
    turns = [Message("user", HELLO[0]["content"])]
    async with emulated(table) as engine:
        for seed in (4, 9, 4, 1):
            _, body = await post(engine, CHAT, chat(seed=seed))
            assert body["usage"]["completion_tokens"] == table.true_length(turns, seed)
        _, body = await post(engine, CHAT, chat(seed=4, max_tokens=1))
        assert body["choices"][0]["finish_reason"] == "length"
        assert body["usage"]["completion_tokens"] == table.true_length(turns, 4, max_tokens=1) == 1


async def test_ignore_eos_runs_to_max_tokens() -> None:
    """As in vLLM: the exact length is the client's."""
    async with emulated([3]) as engine:
        _, body = await post(engine, CHAT, exactly(12))
        assert body["usage"]["completion_tokens"] == 12
        assert body["choices"][0]["finish_reason"] == "length"
        _, body = await post(engine, CHAT, chat(min_tokens=9))
        assert body["usage"]["completion_tokens"] == 9


async def finish_order(
    engine: EmulatedEngine, requests: list[tuple[dict[str, Any], dict[str, str]]]
) -> list[int]:
    """Send one request to fill the only slot, then the others one by one; the order in which those end."""
    done: list[int] = []

    async def one(number: int, body: dict[str, Any], headers: dict[str, str]) -> None:
        await post(engine, CHAT, body, **headers)
        done.append(number)

    model = engine.inference.model
    # The first holds the slot until all the others have come.
    engine.inference.loop.set_slowness(100)
    tasks = [asyncio.create_task(one(-1, exactly(150), {}))]
    await until(lambda: model.num_running == 1)
    for number, (body, headers) in enumerate(requests):
        tasks.append(asyncio.create_task(one(number, body, headers)))
        await until(lambda: model.num_waiting == len(tasks) - 1)
    engine.inference.loop.set_slowness(1)
    await asyncio.gather(*tasks)
    return done[1:]


async def test_the_priority_of_body_and_header_orders_the_queue() -> None:
    """Lower first; the header beats the body; text as a number is a number; a header of text is passed over."""
    requests: list[tuple[dict[str, Any], dict[str, str]]] = [
        (exactly(2, priority=5), {}),
        (exactly(2, priority=9), {"X-Vllm-Priority": "-7"}),
        (exactly(2, priority="3"), {}),
        (exactly(2, priority=4), {"X-Vllm-Priority": "urgent"}),
    ]
    async with emulated(profile=quick_profile(max_num_seqs=1)) as engine:
        assert await finish_order(engine, requests) == [1, 2, 3, 0]


async def test_an_fcfs_engine_ignores_priorities_silently() -> None:
    """Status 200, order of arrival: what a proxy has to notice by itself."""
    requests: list[tuple[dict[str, Any], dict[str, str]]] = [(exactly(2, priority=p), {}) for p in (5, 3, 1)]
    async with emulated(
        profile=quick_profile(max_num_seqs=1), scheduling_policy=SchedulingPolicy.FCFS
    ) as engine:
        assert await finish_order(engine, requests) == [0, 1, 2]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_away_frees_its_slot(stream: bool) -> None:
    """Closing the connection aborts, waiting or running, and counts as an abort."""
    async with emulated(profile=quick_profile(max_num_seqs=1)) as engine:
        model = engine.inference.model
        ask = events if stream else post
        tasks = [asyncio.create_task(ask(engine, CHAT, exactly(3000))) for _ in range(2)]
        await until(lambda: (model.num_running, model.num_waiting) == (1, 1))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: (model.num_running, model.num_waiting) == (0, 0))
        assert metrics(engine)["vllm:request_success_total", "abort"] == 2
        assert model.counters.generation_tokens < 3000


@pytest.mark.parametrize(
    ("body", "status", "kind", "param"),
    [
        (b'{"model": "x", "messages": [', 400, "Bad Request", "body.28"),
        (b"", 400, "Bad Request", "body"),
        (b"[1,2]", 400, "Bad Request", "body"),
        (b'{"model":"emulated"}', 400, "Bad Request", "body.messages"),
        (b'{"model":"nope","messages":[]}', 404, "NotFoundError", "model"),
        (b'{"messages":[],"priority":"high"}', 400, "Bad Request", "body.priority"),
        (b'{"messages":[],"priority":null}', 400, "Bad Request", "body.priority"),
        (b'{"messages":[],"priority":1.5}', 400, "Bad Request", "body.priority"),
        (b'{"messages":[],"priority":9223372036854775808}', 400, "Bad Request", "body.priority"),
        (
            b'{"messages":[],"stream_options":{"include_usage":true}}',
            400,
            "BadRequestError",
            "stream_options",
        ),
        (b'{"messages":[],"max_tokens":0}', 400, "BadRequestError", "max_tokens"),
        (b'{"messages":[],"max_tokens":5000}', 400, "BadRequestError", "input_tokens"),
        (b'{"messages":[],"n":2,"temperature":0}', 400, "BadRequestError", None),
    ],
)
async def test_bad_requests_are_refused_as_by_vllm(
    body: bytes, status: int, kind: str, param: str | None
) -> None:
    """Status, type, param and code of vLLM's error object; the engine keeps serving."""
    async with emulated() as engine, aiohttp.ClientSession() as session:
        headers = {"content-type": "application/json"}
        async with session.post(engine.url + CHAT, data=body, headers=headers) as response:
            error = (await response.json())["error"]
            assert response.status == status == error["code"]
            assert (error["type"], error["param"]) == (kind, param)
            assert error["message"]
        assert (await post(engine, CHAT, chat()))[0] == 200


async def test_of_a_repeated_key_the_last_one_counts() -> None:
    """As Python's JSON reader does it in vLLM: a proxy must not be fooled by the first."""
    async with emulated() as engine, aiohttp.ClientSession() as session:
        body = b'{"messages":[],"max_tokens":3,"ignore_eos":true,"priority":"x","priority":3,"max_tokens":2}'
        headers = {"content-type": "application/json"}
        async with session.post(engine.url + CHAT, data=body, headers=headers) as response:
            assert (await response.json())["usage"]["completion_tokens"] == 2


async def test_what_the_framework_refuses_has_its_own_shape() -> None:
    """Unknown routes, wrong methods and invalid UTF-8: `{"detail": …}`."""
    async with emulated() as engine, aiohttp.ClientSession() as session:
        async with session.get(engine.url + "/nope") as response:
            assert (response.status, await response.json()) == (404, {"detail": "Not Found"})
        async with session.get(engine.url + CHAT) as response:
            assert (response.status, await response.json()) == (405, {"detail": "Method Not Allowed"})
        headers = {"content-type": "application/json"}
        async with session.post(engine.url + CHAT, data=b'{"model":"\xff"}', headers=headers) as response:
            assert (response.status, [*await response.json()]) == (400, ["detail"])
        async with session.post(
            engine.url + CHAT, data=b"{}", headers={"content-type": "text/plain"}
        ) as response:
            assert response.status == 400


async def test_messages_errors_wear_anthropics_envelope() -> None:
    """`{"type": "error", "error": {type, message}}` once the request is past validation."""
    async with emulated() as engine:
        status, body = await post(engine, MESSAGES, chat(model="nope", max_tokens=3))
        assert (status, body["type"], body["error"]["type"]) == (404, "error", "NotFoundError")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_full_queue_is_a_503(stream: bool) -> None:
    """`max_num_queued_reqs` counts waiting and running; all sequences of a request come in, or none."""
    async with emulated(profile=quick_profile(max_num_seqs=1), max_num_queued_reqs=3) as engine:
        model = engine.inference.model
        engine.inference.loop.set_slowness(100)
        busy = asyncio.create_task(post(engine, CHAT, exactly(200)))
        await until(lambda: model.num_running == 1)
        status, body = await post(engine, CHAT, exactly(2, n=3, stream=stream))
        assert (status, body["error"]["code"], body["error"]["type"]) == (503, 503, "Service Unavailable")
        assert (model.num_running, model.num_waiting) == (1, 0)
        engine.inference.loop.set_slowness(1)
        assert (await post(engine, CHAT, exactly(2, n=2)))[0] == 200
        await busy


async def test_a_repeated_prompt_comes_from_the_prefix_cache() -> None:
    """`cached_tokens` of the second request are its full blocks; another salt is another cache."""
    question = [{"role": "user", "content": "word " * 100}]
    async with emulated() as engine:
        counts = []
        for fields in ({}, {}, {"cache_salt": "mine"}):
            _, body = await post(engine, CHAT, chat(messages=question, **fields))
            counts.append(body["usage"]["prompt_tokens_details"]["cached_tokens"])
        prompt_tokens = body["usage"]["prompt_tokens"]
        assert counts == [0, (prompt_tokens - 1) // 16 * 16, 0]


async def test_a_question_appended_inside_the_last_message_shares_the_prefix() -> None:
    """Self-prediction can be tried here: tokens are shared as far as the rendered prompts agree."""
    text = "word " * 100
    async with emulated() as engine:
        await post(engine, CHAT, chat(messages=[{"role": "user", "content": text + "How long?"}]))
        _, body = await post(engine, CHAT, chat(messages=[{"role": "user", "content": text}]))
        assert body["usage"]["prompt_tokens_details"]["cached_tokens"] >= 500 // 4 // 16 * 16


async def test_optional_fields_need_their_flags() -> None:
    """Without `--enable-prompt-tokens-details` and `--enable-per-request-metrics` they are null or absent."""
    async with emulated(enable_prompt_tokens_details=False, enable_per_request_metrics=False) as engine:
        _, body = await post(engine, CHAT, chat())
        assert body["usage"]["prompt_tokens_details"] is None
        assert body["metrics"] is None
        found = await events(engine, CHAT, chat(stream_options={"include_usage": True}))
        assert "prompt_tokens_details" not in found[-2][1]["usage"]
        assert "metrics" not in found[-2][1]


async def test_tokenize_counts_what_usage_counts() -> None:
    """/tokenize of the messages gives the prompt's length; of a prompt, that prompt's."""
    async with emulated() as engine:
        _, counted = await post(engine, "/tokenize", chat())
        _, answered = await post(engine, CHAT, chat())
        assert counted["count"] == len(counted["tokens"]) == answered["usage"]["prompt_tokens"]
        _, counted = await post(engine, "/tokenize", {"prompt": "twelve chars"})
        assert counted["count"] == 3
        _, counted = await post(engine, "/v1/messages/count_tokens", chat())
        assert counted["input_tokens"] == answered["usage"]["prompt_tokens"]


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


async def test_four_hundred_streams_at_once() -> None:
    """Every stream gets every token, and exactly one end."""
    async with emulated(profile=quick_profile(max_num_seqs=400, num_blocks=10_000)) as engine:
        found = await asyncio.gather(*(events(engine, CHAT, exactly(20)) for _ in range(400)))
        assert all(len(stream) == 22 and stream[-1][1] == "[DONE]" for stream in found)
