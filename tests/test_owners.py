"""A stored response: its owner's alone, found where it lies, under an id that no client chooses."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from hashlib import sha256

import msgspec
from harness import ask_raw, bare, error_of, eventually, post, proxy_before
from scripted_engine import JSON, Call, ScriptedEngine, reply

from proxy.app import Headway
from proxy.identity import KeySettings


async def test_a_stored_response_is_its_owners_alone() -> None:
    """Read, continued and cancelled only with the key that created it; without keys, by anybody."""
    keys = tuple(
        KeySettings(sha256=sha256(key.encode()).hexdigest(), tenant="t") for key in ("mine", "yours")
    )
    mine, yours = "Authorization: Bearer mine", "Authorization: Bearer yours"
    async with (
        ScriptedEngine(reply(b'{"status":"completed"}', JSON)) as engine,
        proxy_before(engine.url, keys=keys) as headway,
    ):
        await ask_raw(headway, post("/v1/responses", b'{"input":"hi"}', mine))
        stored = msgspec.json.decode(engine.calls[0].body)["request_id"]
        for request in (
            bare("GET", f"/v1/responses/{stored}"),
            bare("POST", f"/v1/responses/{stored}/cancel"),
        ):
            theirs = await ask_raw(headway, request.replace(b"\r\n\r\n", f"\r\n{yours}\r\n\r\n".encode()))
            assert theirs.status == 404
            error_of(theirs.body, "unknown_response")
            own = await ask_raw(headway, request.replace(b"\r\n\r\n", f"\r\n{mine}\r\n\r\n".encode()))
            assert own.status == 200
        goes_on = f'{{"input":"and?","previous_response_id":"{stored}"}}'.encode()
        theirs = await ask_raw(headway, post("/v1/responses", goes_on, yours))
        assert error_of(theirs.body, "unknown_response")["param"] == "previous_response_id"
        assert (await ask_raw(headway, post("/v1/responses", goes_on, mine))).status == 200
    assert [call.head.split(b" ", 2)[1].count(b"resp_") for call in engine.calls] == [0, 1, 1, 0]


@contextlib.asynccontextmanager
async def stored_at_the_second() -> AsyncIterator[tuple[Headway, ScriptedEngine, ScriptedEngine, str]]:
    """A proxy before two idle engines; the second has stored a response with that id while the first was busy."""

    async def script(call: Call) -> None:
        if b"busy" in call.body:
            await busy.wait()
        await call.send(reply(b"{}", JSON))

    busy = asyncio.Event()
    async with (
        ScriptedEngine(script) as one,
        ScriptedEngine(script) as other,
        proxy_before(one.url, other.url) as headway,
    ):
        blocker = asyncio.ensure_future(ask_raw(headway, post("/v1/responses", b'{"input":"busy"}')))
        await eventually(lambda: len(one.calls) == 1)
        await ask_raw(headway, post("/v1/responses", b'{"input":"hi"}'))
        busy.set()
        await blocker
        yield headway, one, other, msgspec.json.decode(other.calls[0].body)["request_id"]


async def test_a_stored_response_is_read_where_it_lies() -> None:
    """With two engines the one that made it is asked, not the first."""
    async with stored_at_the_second() as (headway, one, other, stored):
        await ask_raw(headway, bare("GET", f"/v1/responses/{stored}"))
        assert (len(one.calls), len(other.calls)) == (1, 2)
        unknown = await ask_raw(headway, bare("GET", "/v1/responses/resp_unknown"))
        error_of(unknown.body, "unknown_response")


async def test_a_conversation_goes_on_where_its_last_response_lies() -> None:
    """With two engines a `previous_response_id` is sent to the one that stored it, not to the less busy one."""
    async with stored_at_the_second() as (headway, one, other, stored):
        body = f'{{"input":"and?","previous_response_id":"{stored}"}}'.encode()
        assert (await ask_raw(headway, post("/v1/responses", body))).status == 200
        assert (len(one.calls), len(other.calls)) == (1, 2)


async def test_a_client_cannot_choose_under_which_id_it_is_stored() -> None:
    """Whoever could would replace another client's response."""
    async with ScriptedEngine(reply(b"{}", JSON)) as engine, proxy_before(engine.url) as headway:
        await ask_raw(headway, post("/v1/responses", b'{"input":"hi","request_id":"resp_x"}'))
        assert engine.calls[0].body.count(b'"request_id"') == 1
        assert b"resp_x" not in engine.calls[0].body
