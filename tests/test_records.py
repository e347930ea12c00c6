"""The traffic record: the only contract between serving and training, read by older and newer versions."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.records import RECORD_VERSION, Outcome, TrafficRecord

records = st.builds(
    TrafficRecord,
    request_id=st.text(max_size=8),
    arrival_us=st.integers(0, 2**62),
    api=st.just("/v1/chat/completions"),
    outcome=st.sampled_from(Outcome),
    status=st.integers(0, 599),
    model=st.none() | st.text(max_size=8),
    stream=st.booleans(),
    quantile=st.none() | st.floats(0, 1),
    output_tokens=st.none() | st.integers(0, 2**40),
    features=st.none() | st.binary(max_size=32),
)


@given(records)
def test_a_record_is_read_as_it_was_written(record: TrafficRecord) -> None:
    """Through JSON and back nothing changes, feature bytes and absent values included."""
    assert msgspec.json.decode(msgspec.json.encode(record), type=TrafficRecord) == record


def test_a_record_of_an_older_version_is_read() -> None:
    """Only what the first version had: the rest has its default, and nothing is made up."""
    old = b'{"request_id":"r","arrival_us":1,"api":"/v1/completions","outcome":"completed","version":1}'
    record = msgspec.json.decode(old, type=TrafficRecord)
    assert (record.output_tokens, record.features, record.schema, record.quantile) == (None,) * 4
    assert record.version <= RECORD_VERSION


def test_a_record_of_a_newer_version_is_read() -> None:
    """Fields that this version does not know are passed over."""
    new = msgspec.json.encode(
        {"request_id": "r", "arrival_us": 1, "api": "x", "outcome": "completed", "version": 9, "mood": "good"}
    )
    assert msgspec.json.decode(new, type=TrafficRecord).version == 9


@pytest.mark.parametrize("field", ["prompt", "messages", "text", "content"])
def test_there_is_no_place_for_a_prompt(field: str) -> None:
    """The record has no field that could hold what was asked."""
    assert field not in TrafficRecord.__struct_fields__


def test_every_end_has_a_word_of_its_own() -> None:
    """Outcomes are stored as words, which no later version may give another meaning."""
    assert {outcome.value for outcome in Outcome} >= {
        "completed", "engine_error", "engine_lost", "client_gone", "refused_invalid", "refused_full",
        "refused_draining", "expired", "internal_error",
    }  # fmt: skip
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"request_id":"r","arrival_us":1,"api":"x","outcome":"?"}', type=TrafficRecord)
