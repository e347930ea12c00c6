"""Where engines are is for operators to know: their log names the one that failed, the answer to a client does not."""

import logging

import pytest
from harness import CHAT, ask_raw, bare, chat, error_of, eventually, post, proxy_before
from scripted_engine import JSON, Call, Script, ScriptedEngine, chunk, head, stream_head

EMBEDDINGS = "/v1/embeddings"
NOBODY = "http://127.0.0.1:9"
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}\n\n'


async def silent(call: Call) -> None:
    """An engine that takes a request and says nothing."""
    await call.closed()


async def breaks(call: Call) -> None:
    """One that is lost in the midst of a stream."""
    await call.send(stream_head() + chunk(TOKEN))


def answered(got: bytes, code: str) -> None:
    """It is this error, and names nobody."""
    error_of(got, code)
    assert b"127.0.0.1" not in got and b"localhost" not in got


@pytest.mark.parametrize("path", [CHAT, EMBEDDINGS])
@pytest.mark.parametrize(
    ("script", "code"),
    [
        (b"", "engine_lost"),
        (b"nonsense\r\n\r\n", "engine_garbage"),
        (head(JSON, "Content-Length: 10"), "engine_lost"),
        (silent, "engine_timeout"),
    ],
)
async def test_a_client_does_not_learn_which_engine_failed(
    path: str, script: Script | bytes, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it did, on every route."""
    async with (
        ScriptedEngine(script) as engine,
        proxy_before(engine.url, engine_timeout_s=0.2 if script is silent else 60.0) as headway,
    ):
        answered((await ask_raw(headway, post(path, chat()))).body, code)
        said = [one for one in caplog.records if one.name == "headway.engines"]
        assert [one.levelno for one in said if engine.url in one.getMessage()] == [logging.WARNING]


async def test_nor_from_the_last_event_of_a_stream(caplog: pytest.LogCaptureFixture) -> None:
    """The log names the request too, as its answer's headers do."""
    async with ScriptedEngine(breaks) as engine, proxy_before(engine.url) as headway:
        got = await ask_raw(headway, post(CHAT, chat(stream=True)))
        answered(got.body.split(b"data: ")[-1].strip(), "engine_lost")
        assert f"request {got.header('x-headway-request-id')}: " in caplog.text
        assert engine.url in caplog.text


async def test_nor_where_no_engine_is_there(caplog: pytest.LogCaptureFixture) -> None:
    """Neither at once nor after the wait."""
    async with proxy_before(NOBODY, engine_wait_s=0.0) as headway:
        await eventually(lambda: "no engine can serve" in caplog.text)
        answered((await ask_raw(headway, post(CHAT, chat()))).body, "engine_unreachable")
        answered((await ask_raw(headway, bare("GET", "/v1/models"))).body, "engine_unreachable")
    assert NOBODY in caplog.text
