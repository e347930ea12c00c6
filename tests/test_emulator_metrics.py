"""/metrics: vLLM's names with the model's real values."""

import asyncio

import aiohttp
import pytest
from emulation import CHAT, chat, emulated, events, exactly, metrics, post, quick_profile, until


async def test_gauges_follow_queue_and_cache() -> None:
    """Running, waiting and KV usage are those of the moment."""
    async with emulated(profile=quick_profile(max_num_seqs=1)) as engine:
        model = engine.inference.model
        engine.inference.loop.set_slowness(100)
        tasks = [asyncio.create_task(post(engine, CHAT, exactly(100))) for _ in range(3)]
        await until(lambda: model.num_waiting == 2)
        found = metrics(engine)
        assert found["vllm:num_requests_running", ""] == 1
        assert found["vllm:num_requests_waiting", ""] == 2
        assert found["vllm:num_requests_waiting_by_reason", "capacity"] == 2
        assert 0 < found["vllm:kv_cache_usage_perc", ""] < 1
        engine.inference.loop.set_slowness(1)
        await asyncio.gather(*tasks)
        assert metrics(engine)["vllm:num_requests_running", ""] == 0


async def test_counters_and_histograms_add_up() -> None:
    """Tokens, cache hits, finish reasons and latencies of what was really served."""
    question = [{"role": "user", "content": "word " * 100}]
    async with emulated([5]) as engine:
        await post(engine, CHAT, chat(messages=question))
        await events(engine, CHAT, chat(messages=question))
        _, body = await post(engine, CHAT, chat(messages=question, max_tokens=2))
        found = metrics(engine)
        prompt_tokens = body["usage"]["prompt_tokens"]
        cached_tokens = body["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert found["vllm:generation_tokens_total", ""] == 12
        assert found["vllm:prefix_cache_queries_total", ""] == 3 * prompt_tokens
        assert found["vllm:prefix_cache_hits_total", ""] == 2 * cached_tokens > 0
        assert found["vllm:request_success_total", "stop"] == 2
        assert found["vllm:request_success_total", "length"] == 1
        assert found["vllm:time_to_first_token_seconds_count", ""] == 3
        assert found["vllm:inter_token_latency_seconds_count", ""] == 4 + 4 + 1
        assert found["vllm:inter_token_latency_seconds_sum", ""] == pytest.approx(
            found["vllm:request_decode_time_seconds_sum", ""]
        )
        assert found["vllm:e2e_request_latency_seconds_bucket", "+Inf"] == 3
        assert found["vllm:request_prompt_tokens_sum", ""] == 3 * prompt_tokens


async def test_preemptions_and_refusals_are_counted() -> None:
    """KV pressure and the admission limit show."""
    profile = quick_profile(max_num_seqs=2, num_blocks=12)
    async with emulated(profile=profile, max_num_queued_reqs=2) as engine:
        engine.inference.loop.set_slowness(100)
        tasks = [asyncio.create_task(post(engine, CHAT, exactly(100, priority=p))) for p in (1, 2)]
        await until(lambda: engine.inference.model.num_running == 2)
        assert (await post(engine, CHAT, chat()))[0] == 503
        engine.inference.loop.set_slowness(1)
        await asyncio.gather(*tasks)
        found = metrics(engine)
        assert found["vllm:num_preemptions_total", ""] >= 1
        assert found["vllm:admission_rejections_total", "max_num_queued_reqs"] == 1


async def test_the_page_can_be_stale() -> None:
    """With `metrics_stale_s` a scrape shows the past, as a real engine's does for seconds."""
    async with emulated(metrics_stale_s=3600.0) as engine:
        before = metrics(engine)
        await post(engine, CHAT, chat())
        assert metrics(engine) == before


async def test_the_page_is_served_as_prometheus_text() -> None:
    """Content type and the cache's configuration, which a doctor reads."""
    async with (
        emulated() as engine,
        aiohttp.ClientSession() as session,
        session.get(engine.url + "/metrics") as response,
    ):
        assert response.headers["content-type"] == "text/plain; version=1.0.0; charset=utf-8"
        text = await response.text()
        assert 'block_size="16"' in text
        assert 'enable_prefix_caching="True"' in text
