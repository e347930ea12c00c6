"""What the traffic log keeps of prompts: nothing, hashed n-grams or all of it, as the operator chose."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from harness import CHAT, ask_raw, chat, engine_of, eventually, post, proxy_before
from hypothesis import given
from hypothesis import strategies as st

from predictor.features.extractor import raw_features
from predictor.features.grams import Grams, pack_grams, unpack_grams
from predictor.features.view import read_view
from predictor.records import Outcome, TrafficRecord
from predictor.request import decode_body
from predictor.traffic_store import read_records
from proxy.ranking import Ranking

CANARY = "xylophonecanary"


async def logged(state: Path, text_mode: str, *bodies: bytes) -> list[TrafficRecord]:
    """The rows that these requests leave."""
    ranking = Ranking()
    assert ranking.load()
    async with (
        engine_of([5]) as engine,
        proxy_before(engine.url, state=state, estimator=ranking, text_mode=text_mode) as headway,
    ):
        for count, body in enumerate(bodies, start=1):
            await ask_raw(headway, post(CHAT, body))
            await eventually(lambda: sum(headway.status().outcomes.values()) == count)  # noqa: B023
    return list(read_records(state / "traffic.db"))


def found_in(state: Path) -> bool:
    """Whether any file under it holds the canary."""
    return any(CANARY.encode() in path.read_bytes() for path in state.rglob("*") if path.is_file())


@pytest.mark.parametrize("stream", [False, True])
async def test_none_keeps_nothing_of_a_prompt(tmp_path: Path, stream: bool) -> None:
    """By default neither the row nor any file knows a word of the prompt, nor its hash."""
    (row,) = await logged(tmp_path, "none", chat(f"Tell me about {CANARY}", stream=stream))
    assert (row.grams, row.body) == (None, None)
    assert row.features is not None
    assert not found_in(tmp_path)


async def test_hashed_keeps_the_n_grams_a_text_head_is_fitted_on(tmp_path: Path) -> None:
    """The row holds exactly the n-grams that training would make of the prompt, and no word of it."""
    prompt = chat(f"Tell me about {CANARY}, about {CANARY} and about {CANARY}")
    (row,) = await logged(tmp_path, "hashed", prompt)
    assert row.body is None
    assert row.grams is not None
    body = decode_body(prompt)
    grams = unpack_grams(row.grams)
    wanted = raw_features(body, read_view(body), grams.bits)
    np.testing.assert_array_equal(grams.bins, wanted.bins)
    assert not found_in(tmp_path)


async def test_full_keeps_what_training_reads(tmp_path: Path) -> None:
    """The body comes back with messages, tools and formats, less what nobody reads, such as pictures."""
    content = [
        {"type": "text", "text": f"What is {CANARY}?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,secretpicture"}},
    ]
    sent = msgspec.json.encode(
        {
            "messages": [{"role": "user", "content": content}],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
            "response_format": {"type": "json_object"},
            "max_tokens": 7,
            "user": "somebody",
        }
    )
    (row,) = await logged(tmp_path, "full", sent)
    assert row.body == decode_body(sent)
    assert row.grams is None
    raw = msgspec.json.encode(row)
    assert b"secretpicture" not in raw
    assert b"somebody" not in raw


@pytest.mark.parametrize("text_mode", ["hashed", "full"])
async def test_text_that_nothing_can_be_learned_from_is_not_kept(tmp_path: Path, text_mode: str) -> None:
    """A refused request leaves numbers alone in every mode, and so does a prompt that is very long in `full`."""
    refused = chat(CANARY, max_tokens="many")
    endless = chat("word " * 100_000)
    rows = await logged(tmp_path, text_mode, refused, endless)
    assert [row.outcome for row in rows] == [Outcome.REFUSED_INVALID, Outcome.COMPLETED]
    assert [row.body for row in rows] == [None, None]
    assert rows[0].grams is None
    assert not found_in(tmp_path)


@given(st.sets(st.integers(0, 2**15 - 1)))
def test_packed_grams_come_back(bins: set[int]) -> None:
    """Packing loses nothing."""
    grams = unpack_grams(pack_grams(Grams(15, np.array(sorted(bins), dtype=np.intp))))
    assert (grams.bits, grams.bins.tolist()) == (15, sorted(bins))


def packed(bits: int, bins: list[int]) -> bytes:
    """What has the form of packed n-grams, whatever the numbers are."""
    return bytes([bits]) + np.array(bins, dtype="<u2").tobytes()


@given(st.binary(max_size=64) | st.builds(packed, st.integers(0, 17), st.lists(st.integers(0, 2**16 - 1))))
def test_any_bytes_are_grams_or_a_clear_error(data: bytes) -> None:
    """A damaged row is a ValueError, and what is accepted names bins of the table."""
    try:
        grams = unpack_grams(data)
    except ValueError:
        return
    bins = grams.bins.tolist()
    assert bins == sorted(set(bins))
    assert not bins or bins[-1] < 1 << grams.bits


def test_a_table_too_wide_to_pack_is_an_error() -> None:
    """More bins than sixteen bits name are refused, not cut."""
    with pytest.raises(ValueError, match="cannot be packed"):
        pack_grams(Grams(17, np.array([70_000], dtype=np.intp)))
