"""vLLM's dialect: priority by header, usage asked for where nobody else did, ids of our own for responses."""

import json

import pytest

from predictor.request import Api, decode_body
from proxy.engines.adapter import Outgoing, Turn
from proxy.engines.vllm import VllmAdapter

ID = "0123456789abcdef0123456789abcdef"
CHAT = b'{"messages":[{"role":"user","content":"hi"}]}'
FIRST = Turn(7, 0)


def outgoing(raw: bytes, api: Api = Api.CHAT, turn: Turn | None = FIRST) -> Outgoing:
    """What the adapter makes of a body."""
    return VllmAdapter().outgoing(api, raw, decode_body(raw), turn, ID)


@pytest.mark.parametrize("api", [Api.CHAT, Api.COMPLETIONS, Api.RESPONSES, Api.MESSAGES])
def test_the_priority_goes_by_header_on_every_route(api: Api) -> None:
    """/v1/messages takes none in its body, so that the header is the one way for all; lower goes first."""
    made = outgoing(CHAT, api, Turn(-(2**62), 3))
    assert made.headers["X-Vllm-Priority"] == str(-(2**62))
    assert made.rank == -(2**62)
    assert b"priority" not in made.body


def test_without_a_turn_nothing_is_said_of_priority() -> None:
    """In hold mode, and where a client may say it itself, no header of ours comes between."""
    made = outgoing(CHAT, turn=None)
    assert "X-Vllm-Priority" not in made.headers
    assert made.rank is None
    assert made.body == CHAT


@pytest.mark.parametrize(
    ("raw", "asked"),
    [
        (b'{"stream":true,"messages":[]}', True),
        (b'{"stream":false,"messages":[]}', False),
        (b'{"stream":true,"stream_options":{"include_usage":false},"messages":[]}', False),
        (b'{"stream":true,"stream_options":{"include_usage":true},"messages":[]}', False),
    ],
)
def test_usage_is_asked_for_only_where_the_client_says_nothing(raw: bytes, asked: bool) -> None:
    """What the client says about stream_options stays as sent, whatever it says."""
    made = outgoing(raw)
    assert made.added_usage is asked
    assert made.body.startswith(raw[:-1])
    options = json.loads(made.body).get("stream_options")
    assert options == ({"include_usage": True} if asked else json.loads(raw).get("stream_options"))


def test_a_response_is_stored_under_our_id() -> None:
    """So that it is known whose it is before the engine has said a word."""
    made = outgoing(b'{"input":"hi","stream":true}', Api.RESPONSES)
    assert made.stored_as == f"resp_{ID}"
    assert json.loads(made.body)["request_id"] == f"resp_{ID}"
    assert made.added_usage is False


def test_its_gauges_are_summed_over_ranks() -> None:
    """Running, waiting and the fullest cache, of all data-parallel ranks."""
    metrics = b"".join(
        b'vllm:num_requests_running{engine="%d"} %d.0\nvllm:num_requests_waiting{engine="%d"} 1.0\n'
        b'vllm:num_requests_waiting_by_reason{engine="%d",reason="capacity"} 9.0\n'
        b'vllm:kv_cache_usage_perc{engine="%d"} 0.%d\n' % (rank, rank + 1, rank, rank, rank, rank + 2)
        for rank in (0, 1)
    )
    load = VllmAdapter().load(metrics)
    assert load is not None
    assert (load.running, load.waiting, load.kv_usage) == (3, 2, 0.3)
    assert VllmAdapter().load(b"nothing 1\n") is None
