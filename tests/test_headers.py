"""Which headers cross the proxy: what is the client's and the engine's business does, what steers does not."""

import hashlib
import logging
from pathlib import Path

import pytest
from harness import CHAT, ask_raw, chat, concrete, error_of, post, proxy_before
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from scripted_engine import JSON, Call, ScriptedEngine, reply

from proxy.headers import to_client, to_engine
from proxy.identity import KeySettings
from proxy.routes import ROUTES, Handling, find_route

FORWARDED = sorted(concrete(path) for path, route in ROUTES.items() if route.handling is not Handling.OWN)
# Where there are keys, a stored response is its owner's alone.
OPEN = [path for path in FORWARDED if not path.startswith("/v1/responses/")]
STEERING = (
    "X-Vllm-Priority",
    "x-vllm-priority",
    "X-Override-Priority",
    "X-Override-Rid",
    "x-override-routed-dp-rank",
    "X-Data-Parallel-Rank",
    "X-SMG-Routing-Key",
    "Endpoint-Load-Metrics-Format",
    "x-headway-class",
    "X-Headway-Tenant",
    "x-headway-ttl",
    "X-Headway-Anything-Else",
)
HOP = ("Keep-Alive", "Proxy-Authorization", "Proxy-Connection", "TE", "Trailer", "Upgrade")
SECRET = "sk-engine-secret"
tokens = st.from_regex(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,20}", fullmatch=True)
values = st.text(st.characters(min_codepoint=32, max_codepoint=255, blacklist_characters="\x7f"), max_size=20)


def sent_to(engine: ScriptedEngine, number: int = -1) -> dict[str, str]:
    """The headers of a request as the engine got them, by lower-case name."""
    lines = engine.calls[number].head.decode().split("\r\n")[1:-2]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def request_to(path: str, *headers: str) -> bytes:
    """A request that the route takes."""
    route = find_route(path)
    assert route is not None
    body = b'{"messages":[{"role":"user","content":"hi"}],"prompt":"hi","input":"hi"}'
    return post(path, body, *headers).replace(b"POST", route.method.encode(), 1)


def multi(*pairs: tuple[str, str]) -> CIMultiDictProxy[str]:
    """Headers as aiohttp hands them over."""
    return CIMultiDictProxy(CIMultiDict(pairs))


@pytest.mark.parametrize("path", FORWARDED)
async def test_no_client_steers_the_engine(path: str) -> None:
    """Priority, rank, cache and x-headway headers of a client never reach the engine, on no route."""
    async with ScriptedEngine(reply(b"{}", JSON)) as engine, proxy_before(engine.url) as headway:
        steering = [f"{name}: 5" for name in STEERING if name != "x-headway-class"]
        hop = [f"{name}: 5" for name in HOP]
        await ask_raw(headway, request_to(path, *steering, *hop, "x-headway-class: batch", "X-Mine: yes"))
        got = sent_to(engine)
    assert got["x-mine"] == "yes"
    leaked = [name for name, value in got.items() if value in ("5", "batch")]
    assert leaked == []


async def test_the_priority_is_ours_alone() -> None:
    """The one priority that the engine gets is a number that the proxy made, whatever the client sent."""
    async with ScriptedEngine(reply(b"{}", JSON)) as engine, proxy_before(engine.url) as headway:
        await ask_raw(
            headway, post(CHAT, chat(priority=-(2**63)), "X-Vllm-Priority: -9", "x-vllm-priority: 3")
        )
        heads = engine.calls[0].head.lower()
    assert heads.count(b"x-vllm-priority") == 1
    assert int(sent_to(engine)["x-vllm-priority"]) > 10**15


async def test_a_clients_key_goes_to_the_engine() -> None:
    """Without a key of its own the proxy passes the client's on, on scheduled routes and on others."""
    async with ScriptedEngine(reply(b"{}", JSON)) as engine, proxy_before(engine.url) as headway:
        for path in (CHAT, "/v1/embeddings"):
            await ask_raw(headway, post(path, chat(), "Authorization: Bearer mine"))
            assert sent_to(engine)["authorization"] == "Bearer mine"


@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings"])
async def test_the_engines_key_takes_the_clients_place_and_stays_secret(
    path: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`engine_api_key_file` replaces the client's Authorization; client, log and errors never see it."""
    caplog.set_level(logging.DEBUG)
    key = tmp_path / "key"
    key.write_text(f"{SECRET}\n")
    seen = b""
    async with ScriptedEngine(reply(b"{}", JSON)) as engine:
        for url in (engine.url, "http://127.0.0.1:9"):
            async with proxy_before(url, engine_api_key_file=str(key)) as headway:
                seen += (await ask_raw(headway, post(path, chat(), "Authorization: Bearer mine"))).raw
                seen += (await ask_raw(headway, post(path, b"{"))).raw
                seen += (await ask_raw(headway, post("/nowhere", b""))).raw
        assert sent_to(engine, 0)["authorization"] == f"Bearer {SECRET}"
    assert SECRET.encode() not in seen
    assert SECRET not in caplog.text


MINE = KeySettings(sha256=hashlib.sha256(b"mine").hexdigest(), tenant="me")


@pytest.mark.parametrize("path", OPEN)
@pytest.mark.parametrize(
    "header",
    [
        "Authorization: Bearer mine",
        "Authorization: bearer  mine",
        "authorization: mine",
        "x-api-key: mine",
        "Authorization: Bearer \r\nx-api-key: mine",
    ],
)
async def test_keys_of_the_proxy_stay_here(path: str, header: str) -> None:
    """Where the proxy has keys of its own, the key that opened it never goes to the engine."""
    async with (
        ScriptedEngine(reply(b"{}", JSON)) as engine,
        proxy_before(engine.url, keys=(MINE,)) as headway,
    ):
        assert (await ask_raw(headway, request_to(path, header))).status == 200
        assert b"mine" not in engine.calls[0].head


@pytest.mark.parametrize("path", FORWARDED)
@pytest.mark.parametrize(
    "headers",
    [(), ("Authorization: Bearer wrong",), ("Authorization: Bearer caf\udce9",), ("x-api-key: no",)],
)
async def test_without_a_key_nothing_is_reached(path: str, headers: tuple[str, ...]) -> None:
    """Where the proxy has keys of its own, no route of the engine opens without one."""
    async with (
        ScriptedEngine(reply(b"{}", JSON)) as engine,
        proxy_before(engine.url, keys=(MINE,)) as headway,
    ):
        got = await ask_raw(headway, request_to(path, *headers))
        assert got.status == 401
        assert got.header("x-should-retry") == "false"
        error_of(got.body, "unknown_key")
        assert not engine.calls


async def test_an_engine_cannot_speak_for_the_proxy() -> None:
    """x-headway headers of an answer are the proxy's own, whatever the engine says."""
    lies = ("x-headway-policy: lie", "X-Headway-Request-Id: lie", "x-headway-queue-ms: lie")
    async with ScriptedEngine(reply(b"{}", JSON, *lies)) as engine, proxy_before(engine.url) as headway:
        got = await ask_raw(headway, post(CHAT, chat()))
    assert b"lie" not in got.raw


async def test_the_engine_is_asked_for_plain_bytes() -> None:
    """No compression is asked for, so that streams can be read on the way; Host is the engine's."""
    async with ScriptedEngine(reply(b"{}", JSON)) as engine, proxy_before(engine.url) as headway:
        await ask_raw(headway, post(CHAT, chat(), "Accept-Encoding: gzip, br"))
        got = sent_to(engine)
        assert got["accept-encoding"] == "identity"
        assert got["host"] == engine.url.removeprefix("http://")


async def test_nothing_is_added_in_the_clients_name() -> None:
    """The engine sees no User-Agent, Accept or Content-Type that the client did not send."""
    async with ScriptedEngine(reply(b"{}", JSON)) as engine, proxy_before(engine.url) as headway:
        await ask_raw(headway, post(CHAT, chat()).replace(b"Content-Type: application/json\r\n", b""))
        assert not {"user-agent", "accept", "content-type"} & set(sent_to(engine))


async def test_cookies_are_not_kept() -> None:
    """A cookie that an engine sets goes to that client and to no other."""

    async def sets_a_cookie(call: Call) -> None:
        await call.send(reply(b"{}", JSON, "Set-Cookie: who=me; Path=/"))

    async with ScriptedEngine(sets_a_cookie) as engine, proxy_before(engine.url) as headway:
        assert (await ask_raw(headway, post(CHAT, chat()))).header("Set-Cookie")
        await ask_raw(headway, post(CHAT, chat()))
        assert "cookie" not in sent_to(engine)


@given(pairs=st.lists(st.tuples(tokens, values), max_size=8), named=st.lists(tokens, max_size=2))
def test_headers_cross_in_order_less_those_of_the_hop(pairs: list[tuple[str, str]], named: list[str]) -> None:
    """Both ways: order and repetition are kept; Connection and all that it names stay behind."""
    connection = [("Connection", ", ".join(named))] if named else []
    gone = (
        {name.lower() for name in named} | {"connection", "content-length"} | {name.lower() for name in HOP}
    )
    gone |= {"transfer-encoding"}
    expected = [(name, value) for name, value in pairs if name.lower() not in gone]
    assert list(to_client(multi(*pairs, *connection), {}).items()) == expected
    never = {name.lower() for name in STEERING} | {"host", "expect", "accept-encoding"}
    onward = list(to_engine(multi(*pairs, *connection), {}, None).items())
    assert onward[-1] == ("Accept-Encoding", "identity")
    assert onward[:-1] == [(name, value) for name, value in expected if name.lower() not in never]
