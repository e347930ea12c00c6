"""Only inference routes can be reached: by their exact path, their own method, and in no other reading."""

import re
from pathlib import Path

import pytest
from harness import CHAT, ask_raw, bare, chat, concrete, engine_of, error_of, post, proxy_before
from scripted_engine import ScriptedEngine

from predictor.request import Api
from proxy.app import Headway
from proxy.routes import ROUTES, Handling, find_route

CONTROL = [
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/sleep",
    "/wake_up",
    "/is_sleeping",
    "/reset_prefix_cache",
    "/reset_mm_cache",
    "/collective_rpc",
    "/invocations",
    "/server_info",
    "/abort_requests",
    "/abort_request",
    "/start_profile",
    "/pause",
    "/resume",
    "/update_weights",
    "/update_weights_from_disk",
    "/flush_cache",
    "/release_memory_occupation",
    "/scale_elastic_ep",
    "/set_internal_state",
    "/configure_logging",
    "/open_session",
    "/get_model_info",
    "/generative_scoring",
    "/version",
    "/load",
    "/docs",
    "/openapi.json",
    "/emulator/faults",
    "/headway/status",
    "/",
]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_is_not_on_the_list_never_reaches_the_engine(method: str) -> None:
    """Routes that control the engine, and all that nobody has heard of, are a 404 here."""
    async with ScriptedEngine(b"") as engine, proxy_before(engine.url) as headway:
        for path in CONTROL:
            got = await ask_raw(headway, bare(method, path))
            assert got.status == 404, path
            assert path in error_of(got.body, "unknown_route")["message"]
        assert not engine.calls


TRICKS = [
    b"//v1/chat/completions",
    b"/v1//chat/completions",
    b"/v1/chat/completions/",
    b"/v1/./chat/completions",
    b"/v1/chat/../chat/completions",
    b"/v1/chat/%2e%2e/sleep",
    b"/v1/models/..%2fsleep",
    b"/v1/models/%2e%2e/%2e%2e/sleep",
    b"/V1/chat/completions",
    b"/v1/chat/completions;x=1",
    b"/v1/chat/completions%00",
    b"/v1/chat/completions%20",
    b"/v1/chat/completions%3Fx",
    b"/%76%31/%63hat/completions%23",
    b"\\v1\\chat\\completions",
    b"v1/chat/completions",
    b"*",
    b"/v1/\xff\xfe",
    b"/v1/%ff%fe",
    b"http://%5b/",
    b"http://[::1/v1/models",
    b"http://x:99999/v1/models",
    b"/v1/models#/../sleep",
]


@pytest.mark.parametrize("target", TRICKS)
async def test_path_tricks_reach_nothing(target: bytes) -> None:
    """A target that is no exact route is refused, and never reaches the engine in any reading."""
    async with ScriptedEngine(b"") as engine, proxy_before(engine.url) as headway:
        request = post("/x", chat()).replace(b" /x ", b" %b " % target)
        got = await ask_raw(headway, request)
        assert got.status in (400, 404, 405)
        assert got.body.startswith(b'{"error":{')
        assert not engine.calls


@pytest.mark.parametrize(
    "target",
    [
        b"/v1/chat/%63ompletions",
        b"/v1%2fchat%2Fcompletions",
        b"http://headway/v1/chat/completions",
        b"http://elsewhere:1/v1/chat/completions",
        b"/v1/chat/completions?a=1&b=%20c",
    ],
)
async def test_other_spellings_of_a_route_reach_exactly_that_route(target: bytes) -> None:
    """The engine gets the path of the route itself, and the query as the client wrote it."""
    async with engine_of() as engine, proxy_before(engine.url) as headway:
        got = await ask_raw(headway, post("/x", chat()).replace(b" /x ", b" %b " % target))
        assert got.status == 200
        assert [received.path for received in engine.received] == [CHAT]


async def test_the_query_passes_as_written() -> None:
    """Query strings are the engine's business, on scheduled routes and on others."""
    async with ScriptedEngine(b"") as engine, proxy_before(engine.url) as headway:
        for path in (CHAT, "/v1/embeddings"):
            await ask_raw(headway, post(f"{path}?a=%2F+b&c", chat()))
        heads = [call.head.split(b" HTTP")[0] for call in engine.calls]
        assert heads == [f"POST {path}?a=%2F+b&c".encode() for path in (CHAT, "/v1/embeddings")]


@pytest.mark.parametrize("path", sorted(ROUTES))
async def test_a_wrong_method_is_told_the_right_one(headway: Headway, path: str) -> None:
    """405 with the method that the route takes, in words and in `Allow`."""
    right = ROUTES[path].method
    path = concrete(path)
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "GET" if right == "POST" else "POST"):
        got = await ask_raw(headway, bare(method, path))
        assert got.status == 405
        assert right in error_of(got.body, "method_not_allowed")["message"]
        assert got.header("Allow") == right


DATA = Path(__file__).parent / "data"
_VARIABLE = re.compile(r"\{[^}]*\}")


def listed(name: str) -> list[tuple[str, str]]:
    """Method and path of each route in a list: `vllm` and `sglang` as the engines have them, or `never`."""
    lines = (DATA / f"routes-{name}.txt").read_text().splitlines()
    return [(method, path) for method, _, path in (line.partition(" ") for line in lines)]


def handling_of(method: str, path: str) -> Handling | None:
    """What the proxy does with a request for one of an engine's routes; None: refuse it."""
    route = find_route(_VARIABLE.sub("x1", path))
    return route.handling if route is not None and route.method == method else None


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_each_route_of_an_engine_is_on_exactly_one_list(engine: str) -> None:
    """Scheduled, relayed, answered here, or never: a route that a new version adds must be put on one."""
    never = set(listed("never"))
    for method, path in listed(engine):
        here = handling_of(method, path) is not None
        assert here is not ((method, path) in never), f"{method} {path}"


def test_every_refused_route_is_an_engines() -> None:
    """The list of what is never exposed names nothing that no engine has."""
    assert set(listed("never")) <= {*listed("vllm"), *listed("sglang")}


@pytest.mark.parametrize(
    ("engine", "apis"),
    [
        ("vllm", set(Api) - {Api.GENERATE}),
        ("sglang", set(Api)),
    ],
)
def test_generation_is_scheduled_on_every_api(engine: str, apis: set[Api]) -> None:
    """All that generates text for clients goes through the queue."""
    scheduled = {path for method, path in listed(engine) if handling_of(method, path) is Handling.SCHEDULE}
    assert scheduled == apis
