"""SGLang's dialect: few priorities of the right sign, request ids of our own, aborts, its own health route."""

import asyncio
import json
from pathlib import Path

import aiohttp
import msgspec
import pytest
from fake_sglang import FakeSglang
from harness import ask_raw, chat, eventually, idle, outcomes, post, proxy_before
from hypothesis import given
from hypothesis import strategies as st

from predictor.request import Api, decode_body
from proxy.engines.adapter import Outgoing, Turn
from proxy.engines.facts import SglangSettings
from proxy.engines.sglang import SglangAdapter

ID = "0123456789abcdef0123456789abcdef"
GOOD = SglangSettings(enabled=True, low_first=True, preempts=False, default_value=4)
BODIES = {
    Api.CHAT: b'{"messages":[{"role":"user","content":"hi"}]}',
    Api.COMPLETIONS: b'{"prompt":"hi"}',
    Api.RESPONSES: b'{"input":"hi"}',
    Api.MESSAGES: b'{"messages":[{"role":"user","content":"hi"}],"max_tokens":8}',
    Api.GENERATE: b'{"text":"hi","sampling_params":{"max_new_tokens":8}}',
}


def outgoing(api: Api, tier: int | None = 0, settings: SglangSettings | None = GOOD, **more: int) -> Outgoing:
    """What the adapter makes of a plain request of a tier; None: without a turn."""
    raw = BODIES[api]
    turn = None if tier is None else Turn(10**16, tier)
    return SglangAdapter(settings, **more).outgoing(api, raw, decode_body(raw), turn, ID)


def priority(made: Outgoing) -> int | None:
    """The priority in the body."""
    value = json.loads(made.body).get("priority")
    assert value is None or isinstance(value, int)
    return value


@pytest.mark.parametrize("low_first", [True, False])
def test_better_tiers_get_the_better_number_whatever_the_sign(low_first: bool) -> None:
    """Higher goes first by default, lower with the flag; the default tier is worth the engine's default."""
    settings = msgspec.structs.replace(GOOD, low_first=low_first)
    found = [priority(outgoing(Api.CHAT, tier, settings, default_tier=1)) for tier in (0, 1, 2)]
    assert found == ([3, 4, 5] if low_first else [5, 4, 3])


@given(
    tiers=st.lists(st.integers(0, 900), min_size=2),
    threshold=st.integers(0, 50),
    default=st.integers(-(2**60), 2**60),
    default_tier=st.integers(0, 5),
    low_first=st.booleans(),
)
def test_no_two_priorities_are_far_enough_apart_to_stop_anybody(
    tiers: list[int], threshold: int, default: int, default_tier: int, low_first: bool
) -> None:
    """With preemption on, all numbers stay within the threshold; they are few; and a worse tier is never better."""
    settings = SglangSettings(True, low_first, True, threshold, default)
    made = [outgoing(Api.CHAT, tier, settings, default_tier=default_tier) for tier in sorted(tiers)]
    sent = [number for one in made if (number := priority(one)) is not None]
    assert not sent or max(sent) - min(sent) <= threshold
    assert len(set(sent)) <= 32
    assert sent == sorted(sent, reverse=not low_first)
    ranks = [one.rank for one in made if one.rank is not None]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize(
    "settings",
    [
        None,
        msgspec.structs.replace(GOOD, enabled=False),
        msgspec.structs.replace(GOOD, default_value=None),
        msgspec.structs.replace(GOOD, preempts=True, preemption_threshold=0),
    ],
)
def test_where_a_priority_would_do_harm_none_is_sent(settings: SglangSettings | None) -> None:
    """Unknown settings, priorities off (it might refuse), no default (others would starve), any gap preempts."""
    made = outgoing(Api.CHAT, 0, settings)
    assert priority(made) is None
    assert made.rank is None
    assert SglangAdapter(settings).sends_priority is False


@pytest.mark.parametrize("api", [Api.RESPONSES, Api.MESSAGES])
def test_routes_that_drop_priorities_get_none(api: Api) -> None:
    """/v1/responses takes a priority and ignores it, /v1/messages has none: we do not pretend."""
    assert outgoing(api).rank is None
    assert priority(outgoing(api)) is None


@pytest.mark.parametrize("api", list(BODIES))
def test_ids_are_ours_and_always_as_long(api: Api) -> None:
    """The engine aborts by prefix, so no id may begin another; /v1/messages takes none."""
    made = outgoing(api, tier=None)
    document = json.loads(made.body)
    if api is Api.MESSAGES:
        assert made.body == BODIES[api]
        assert made.abort is None
        return
    rid = document["request_id" if api is Api.RESPONSES else "rid"]
    assert rid == (f"resp_{ID}" if api is Api.RESPONSES else ID)
    assert made.abort is not None
    assert made.abort.path == "/abort_request"
    assert json.loads(made.abort.body) == {"rid": rid}


def test_an_engine_that_tells_usage_by_itself_is_not_asked() -> None:
    """Then the client would get the event too, and keeps it."""
    raw = b'{"messages":[],"stream":true}'
    settings = msgspec.structs.replace(GOOD, usage_by_default=True)
    for one, asked in ((GOOD, True), (settings, False)):
        made = SglangAdapter(one).outgoing(Api.CHAT, raw, decode_body(raw), None, ID)
        assert made.added_usage is asked


async def test_one_request_of_each_api_passes(tmp_path: Path) -> None:
    """Bytes arrive, tokens are read, and the engine gets one priority per tier and no field of a client's."""
    async with FakeSglang() as engine, proxy_before(engine.url, state=tmp_path) as headway:
        assert headway.status().engines[0].kind == "sglang"
        assert headway.status().engines[0].version == "0.5.23"
        for api, raw in BODIES.items():
            for body in (raw, raw[:-1] + b',"stream":true,"priority":-9,"rid":"mine"}'):
                got = await ask_raw(headway, post(api, body))
                assert got.status == 200, got.body
        assert await outcomes(headway) == {"completed": 10}
        assert "/health" not in engine.asked
    for path, body, _ in engine.received:
        rid = body.get("request_id" if path == Api.RESPONSES else "rid")
        assert body.get("priority") == (4 if path not in (Api.RESPONSES, Api.MESSAGES) else None)
        assert rid is None if path == Api.MESSAGES else rid != "mine"


@pytest.mark.parametrize("streams", [True, False])
async def test_a_client_that_leaves_is_aborted_by_its_id(streams: bool) -> None:
    """The engine would find out 3 s later; told so, it stops at once."""
    async with FakeSglang() as engine, proxy_before(engine.url) as headway, aiohttp.ClientSession() as client:
        engine.hangs = True
        asked = asyncio.ensure_future(client.post(f"{headway.url}{Api.CHAT}", data=chat(stream=streams)))
        await eventually(lambda: bool(engine.received))
        asked.cancel()
        await eventually(lambda: bool(engine.aborted))
        assert engine.aborted == [engine.received[0][1]["rid"]]
        await idle(headway)


async def test_nothing_is_aborted_that_has_ended() -> None:
    """A whole answer leaves nothing behind to stop."""
    async with FakeSglang() as engine, proxy_before(engine.url) as headway:
        await ask_raw(headway, post(Api.CHAT, chat()))
        await idle(headway)
        assert engine.aborted == []


async def test_without_the_key_the_engine_is_still_known(tmp_path: Path) -> None:
    """Its settings stay closed: no priority is sent, and clients' own keys open it."""
    async with FakeSglang() as engine:
        engine.key = "theirs"
        async with proxy_before(engine.url) as headway:
            assert headway.status().engines[0].kind == "sglang"
            got = await ask_raw(headway, post(Api.CHAT, chat(), "Authorization: Bearer theirs"))
            assert got.status == 200
            assert "priority" not in engine.received[0][1]
        key = tmp_path / "key"
        key.write_text("theirs")
        async with proxy_before(engine.url, engine_api_key_file=str(key)) as headway:
            await ask_raw(headway, post(Api.CHAT, chat()))
            assert engine.received[1][1]["priority"] == 4


def test_the_whole_is_not_counted_twice() -> None:
    """By priority there are more series; the one without a priority is the sum."""
    from fake_sglang import METRICS

    load = SglangAdapter(GOOD).load(METRICS.encode())
    assert load is not None
    assert (load.running, load.waiting, load.kv_usage) == (3, 2, 0.5)
