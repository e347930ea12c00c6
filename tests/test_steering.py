"""What steers an engine in a body stays here, however it is written, unless a key may set priorities."""

from hashlib import sha256

import pytest
from harness import CHAT, ask_raw, chat, error_of, post, proxy_before
from scripted_engine import JSON, ScriptedEngine, reply

from proxy.identity import KeySettings

PERMITTED = KeySettings(sha256=sha256(b"mine").hexdigest(), tenant="t", may_set_priority=True)


@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings"])
async def test_what_steers_an_engine_is_taken_out_of_every_body(path: str) -> None:
    """Priority, ids and ranks, however they are written; all else stays, unknown fields included."""
    body = (
        b'{"messages":[{"role":"user","content":"\\"rid\\": hi"}], "rid" : "x" ,"pri\\u006frity":-5,'
        b'"routed_dp_rank":0,"data_parallel_rank":1,"disagg_prefill_dp_rank":[{"a":1}],'
        b'"mine":{"rid":1,"priority":2},"n":1 }'
    )
    left = b'{"messages":[{"role":"user","content":"\\"rid\\": hi"}],"mine":{"rid":1,"priority":2},"n":1 }'
    async with ScriptedEngine(reply(b"{}", JSON)) as engine, proxy_before(engine.url) as headway:
        await ask_raw(headway, post(path, body))
        assert engine.calls[0].body == left


async def test_a_key_may_be_allowed_to_set_priorities() -> None:
    """Then body and header pass as they were sent, and no number of ours comes between."""
    body = chat(priority=-7)
    async with (
        ScriptedEngine(reply(b"{}", JSON)) as engine,
        proxy_before(engine.url, keys=(PERMITTED,)) as headway,
    ):
        await ask_raw(headway, post(CHAT, body, "Authorization: Bearer mine"))
        await ask_raw(headway, post(CHAT, chat(), "Authorization: Bearer mine", "X-Vllm-Priority: -8"))
        await ask_raw(headway, post(CHAT, chat(), "Authorization: Bearer mine"))
    assert engine.calls[0].body == body
    assert b"x-vllm-priority" not in engine.calls[0].head.lower()
    assert b"x-vllm-priority: -8" in engine.calls[1].head.lower()
    assert engine.calls[2].head.lower().count(b"x-vllm-priority: ") == 1


@pytest.mark.parametrize("raw", ['{"priority":-1}'.encode("utf-16"), b'{"priority":-1', b'\xff"priority"{}'])
async def test_no_encoding_smuggles_a_field_past(raw: bytes) -> None:
    """A relayed body that names such a field and cannot be read is refused, not passed on in the hope."""
    async with ScriptedEngine(reply(b"{}", JSON)) as engine, proxy_before(engine.url) as headway:
        got = await ask_raw(headway, post("/v1/embeddings", raw))
        error_of(got.body, "invalid_json")
        assert not engine.calls
