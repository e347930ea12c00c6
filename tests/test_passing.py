"""Routes that are relayed and not scheduled get the same care: bytes, errors, disconnects."""

import asyncio
import logging

import pytest
from harness import (
    CHAT,
    ask_raw,
    bare,
    chat,
    engine_of,
    error_of,
    eventually,
    outcomes,
    post,
    proxy_before,
    raw_client,
)
from recording_relay import RecordingRelay
from scripted_engine import JSON, Call, ScriptedEngine, head, reply, stream_head

from proxy.app import Headway
from proxy.identity import KeySettings
from training.emulator import EmulatedEngine

EMBEDDINGS = "/v1/embeddings"
NOBODY = "http://127.0.0.1:9"


def relayed(headway: Headway) -> dict[tuple[str, str], float]:
    """Relayed requests by route and outcome, as /metrics counts them; what never happened is left out."""
    families = headway.metrics.registry.collect()
    (family,) = [one for one in families if one.name == "headway_relayed_requests"]
    return {
        (sample.labels["route"], sample.labels["outcome"]): sample.value
        for sample in family.samples
        if sample.name.endswith("_total") and sample.value
    }


async def test_the_model_list_is_the_engines(engine: EmulatedEngine) -> None:
    """GET /v1/models and POST /tokenize arrive as the engine sent them, length included."""
    async with RecordingRelay(engine.config.host, engine.port) as relay, proxy_before(relay.url) as headway:
        requests = {
            "/v1/models": bare("GET", "/v1/models"),
            "/tokenize": post("/tokenize", b'{"prompt":"hi"}'),
        }
        for path, request in requests.items():
            got = await ask_raw(headway, request)
            sent = relay.exchanges_of(path)[0].answer
            assert sent is not None
            assert got.status == 200
            assert got.body == sent.body
            assert got.header("Content-Length") == sent.header("Content-Length")
        assert await outcomes(headway) == {}


async def test_bodies_of_any_kind_pass_unread() -> None:
    """No JSON is asked of a body that is not scheduled: an audio upload passes byte for byte."""
    body = bytes(range(256)) * 5000
    async with ScriptedEngine(reply(b"\x00\xff", "Content-Type: audio/x")) as engine:
        async with proxy_before(engine.url) as headway:
            got = await ask_raw(headway, post("/v1/audio/transcriptions", body))
        assert engine.calls[0].body == body
    assert got.body == b"\x00\xff"
    assert got.header("Content-Type") == "audio/x"


async def test_a_stream_of_unknown_length_passes() -> None:
    """An answer without a length is relayed in chunks."""
    answer = stream_head() + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    async with ScriptedEngine(answer) as engine, proxy_before(engine.url) as headway:
        got = await ask_raw(headway, post(EMBEDDINGS, b"{}"))
        assert got.complete
        assert got.body == b"abcde"


@pytest.mark.parametrize("path", [CHAT, EMBEDDINGS, "/v1/models"])
async def test_a_browser_may_ask_first(path: str) -> None:
    """A page's preflight is answered by the engine, keys or not, and takes no key along; what is not on the list
    stays closed, and OPTIONS that ask for nothing too."""
    allowed = ("Access-Control-Allow-Origin: *", "Access-Control-Allow-Methods: POST")
    key = KeySettings(sha256="0" * 64, tenant="t")
    asks = "Origin: http://page\r\nAccess-Control-Request-Method: POST\r\nX-Vllm-Priority: 1\r\nX-API-Key: k"

    def options(path: str, headers: str = asks) -> bytes:
        return bare("OPTIONS", path).replace(b"Host: x", f"Host: x\r\n{headers}".encode())

    async with (
        ScriptedEngine(reply(b"OK", *allowed)) as engine,
        proxy_before(engine.url, keys=(key,)) as headway,
    ):
        got = await ask_raw(headway, options(path))
        assert (got.status, got.body, got.header("Access-Control-Allow-Origin")) == (200, b"OK", "*")
        assert engine.calls[0].head.startswith(f"OPTIONS {path} HTTP/1.1\r\n".encode())
        assert not {"x-vllm-priority", "x-api-key"} & {
            line.partition(b":")[0].decode().lower() for line in engine.calls[0].head.splitlines()
        }
        assert (await ask_raw(headway, options("/sleep"))).status == 404
        assert (await ask_raw(headway, options("/metrics"))).status == 405
        assert (await ask_raw(headway, options(path, "Origin: http://page"))).status == 405
        assert len(engine.calls) == 1


@pytest.mark.parametrize("status", ["400 Bad Request", "404 Not Found", "500 Oops"])
async def test_refusals_pass_unchanged(status: str) -> None:
    """An engine's own error keeps status, reason and body."""
    answer = reply(b'{"error":1}', JSON, status=status)
    async with ScriptedEngine(answer) as engine, proxy_before(engine.url) as headway:
        got = await ask_raw(headway, post(EMBEDDINGS, b"{}"))
    assert got.start == f"HTTP/1.1 {status}"
    assert got.body == b'{"error":1}'


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (b"", 502, "engine_lost"),
        (b"nonsense\r\n\r\n", 502, "engine_garbage"),
        (head(status="101 Switching Protocols"), 502, "engine_garbage"),
        (head("Content-Length: 10"), 502, "engine_lost"),
    ],
)
async def test_a_broken_answer_is_a_clear_error(answer: bytes, status: int, code: str) -> None:
    """Where nothing has gone out yet the client gets an error in the OpenAI shape."""
    async with ScriptedEngine(answer) as engine, proxy_before(engine.url) as headway:
        got = await ask_raw(headway, post(EMBEDDINGS, b"{}"))
        assert got.status == status
        error_of(got.body, code)


async def test_an_answer_that_breaks_is_never_taken_for_whole(caplog: pytest.LogCaptureFixture) -> None:
    """Once bytes are out, a lost engine ends the connection before the announced length, without log noise."""

    async def breaks(call: Call) -> None:
        await call.send(head(JSON, "Content-Length: 10") + b"abc")

    async with ScriptedEngine(breaks) as engine, proxy_before(engine.url) as headway:
        got = await ask_raw(headway, post(EMBEDDINGS, b"{}"))
        assert got.status == 200
        assert not got.complete
        assert (await ask_raw(headway, bare("GET", "/healthz"))).status == 200
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_silent_engine_is_a_504() -> None:
    """After `engine_timeout_s` the client is told so."""
    async with (
        ScriptedEngine(lambda call: call.closed()) as engine,
        proxy_before(engine.url, engine_timeout_s=0.1) as headway,
    ):
        got = await ask_raw(headway, post(EMBEDDINGS, b"{}"))
        assert got.status == 504
        error_of(got.body, "engine_timeout")


async def test_no_engine_is_a_503() -> None:
    """Nobody listens: 503, at once."""
    async with proxy_before(NOBODY) as headway:
        got = await ask_raw(headway, bare("GET", "/v1/models"))
        assert got.status == 503
        error_of(got.body, "engine_unreachable")


async def test_another_engine_answers_in_place_of_a_dead_one() -> None:
    """With several engines the request goes to one that is there, also before the watch has noticed."""
    async with engine_of() as dying, engine_of() as living, proxy_before(dying.url, living.url) as headway:
        assert (await ask_raw(headway, bare("GET", "/v1/models"))).status == 200
        await dying.die()
        assert (await ask_raw(headway, bare("GET", "/v1/models"))).status == 200


async def test_a_client_that_leaves_closes_the_engines_connection() -> None:
    """The engine need not finish an embedding that nobody waits for."""
    left = asyncio.Event()

    async def waits(call: Call) -> None:
        await call.closed()
        left.set()

    async with ScriptedEngine(waits) as engine, proxy_before(engine.url) as headway:
        async with raw_client(headway) as client:
            await client.send(post(EMBEDDINGS, b"{}"))
            await eventually(lambda: bool(engine.calls))
            client.reset()
        async with asyncio.timeout(60):
            await left.wait()
        await eventually(lambda: relayed(headway) == {(EMBEDDINGS, "client_gone"): 1})


async def test_limits_hold_here_too(engine: EmulatedEngine) -> None:
    """Bodies are bounded in size and time on every route."""
    async with proxy_before(engine.url, max_body_bytes=10, body_timeout_s=0.1) as headway:
        assert (await ask_raw(headway, post(EMBEDDINGS, b"x" * 11))).status == 413
        slow = post(EMBEDDINGS, b"").replace(b"Content-Length: 0", b"Content-Length: 5")
        assert (await ask_raw(headway, slow)).status == 408


async def test_nothing_new_while_draining(headway: Headway) -> None:
    """A draining proxy takes no new request on any route of the engine."""
    assert await headway.drain()
    for request in (bare("GET", "/v1/models"), post(EMBEDDINGS, chat())):
        got = await ask_raw(headway, request)
        assert got.status == 503
        error_of(got.body, "draining")


async def test_every_relayed_request_is_counted_by_how_it_ended() -> None:
    """Once each, under the route of the list and never under a client's spelling; scheduled ones are counted apart."""
    stored = "/v1/responses/{id}"
    answers = {
        EMBEDDINGS: reply(b"{}", JSON),
        "/v1/models/org/mine": reply(b"{}", JSON, status="404 Not Found"),
        "/v1/responses/resp_1": reply(b"{}", JSON),
        "/tokenize": b"",
        "/score": head(JSON, "Content-Length: 10") + b"abc",
    }

    async def by_path(call: Call) -> None:
        path = call.head.split(b" ")[1].decode().partition("?")[0]
        await call.send(answers[path])

    async with ScriptedEngine(by_path) as engine, proxy_before(engine.url, max_body_bytes=10) as headway:
        for path in (EMBEDDINGS, EMBEDDINGS + "?x=1", "/tokenize", "/score"):
            await ask_raw(headway, post(path, b"{}"))
        for path in ("/v1/models/org/mine", "/v1/responses/resp_1", EMBEDDINGS, "/unknown", "/healthz"):
            await ask_raw(headway, bare("GET", path))
        await ask_raw(headway, post(EMBEDDINGS, b"x" * 11))
        await headway.drain()
        await ask_raw(headway, post("/rerank", b"{}"))
        await eventually(lambda: sum(relayed(headway).values()) == 8)
        assert relayed(headway) == {
            (EMBEDDINGS, "completed"): 2,
            (EMBEDDINGS, "refused_invalid"): 1,
            ("/v1/models/{model}", "engine_error"): 1,
            (stored, "completed"): 1,
            ("/tokenize", "engine_lost"): 1,
            ("/score", "engine_lost"): 1,
            ("/rerank", "refused_draining"): 1,
        }
        assert await outcomes(headway) == {}
