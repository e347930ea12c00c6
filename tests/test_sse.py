"""The stream observer: it reads what passes and takes nothing away but the usage event that we asked for."""

import itertools
import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.answers import Usage
from proxy.dialects import decode_answer
from proxy.sse import MOST_HELD_BYTES, StreamObserver, data_of, leading_error

DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}


def event(document: Any, end: bytes = b"\n\n") -> bytes:
    """One data event."""
    return b"data: " + json.dumps(document).encode() + end


def chunk_event(content: str = "hi", reason: str | None = None, **fields: Any) -> bytes:
    """One event of a chat stream."""
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": reason}
    return event({"id": "x", "choices": [choice], **fields})


def usage_event(end: bytes = b"\n\n") -> bytes:
    """The event that vLLM sends last when usage is asked for."""
    return event({"id": "x", "choices": [], "usage": USAGE}, end)


def pass_through(observer: StreamObserver, stream: bytes, cuts: Sequence[int]) -> list[bytes]:
    """What the client gets of a stream that comes in pieces; the last item comes at its end."""
    borders = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    pieces = [stream[begin:end] for begin, end in itertools.pairwise(borders)]
    return [observer.feed(piece) for piece in pieces] + [observer.close()]


texts = st.text(max_size=12) | st.sampled_from(['"usage":{"x":1}', "[DONE]", "\n\n", "\r\n\r\n", "data: x"])
lines = st.sampled_from([b": keep-alive", b"event: error", b"id: 7", b"retry: 3", b"data:", b"data: [DONE]"])
ends = st.sampled_from([b"\n\n", b"\r\n\r\n"])
raw_events = st.builds(
    event,
    st.fixed_dictionaries(
        {"choices": st.lists(st.fixed_dictionaries({"delta": st.fixed_dictionaries({"content": texts})}))},
        optional={"usage": st.none() | st.just(USAGE) | texts, "error": st.none() | texts},
    ),
    ends,
)
odd_events = st.builds(lambda line, end: line + end, lines, ends)
junk = st.binary(max_size=20) | st.sampled_from([b"\n", b"\n\n", b"\r\n", b"\n\n\n", b"data: \xff\xfe\n\n"])
streams = st.lists(raw_events | odd_events | junk, max_size=8).map(b"".join)
cut_places = st.lists(st.integers(0, 1 << 16), max_size=12)


def without_usage(stream: bytes) -> bytes:
    """The stream less every event that is nothing but usage, found the plain way."""

    def kept(match: re.Match[bytes]) -> bytes:
        payload = b"\n".join(line[5:].strip() for line in match[0].split(b"\n") if line.startswith(b"data:"))
        try:
            document = json.loads(payload)
        except ValueError:
            return match[0]
        if not isinstance(document, dict) or document.get("choices") != []:
            return match[0]
        return b"" if isinstance(document.get("usage"), dict) else match[0]

    return re.sub(rb"(?s)[^\r\n].*?(?:(?:\r?\n){2}|\Z)", kept, stream)


@given(stream=streams, cuts=cut_places)
@example(stream=DONE, cuts=[1, 2, 3])
def test_an_observer_changes_nothing(stream: bytes, cuts: list[int]) -> None:
    """Where the client asked for usage itself it gets every byte, wherever the chunks end."""
    assert b"".join(pass_through(StreamObserver(drop_usage=False), stream, cuts)) == stream


@given(stream=streams, cuts=cut_places)
@example(stream=b"\n\n\n" + usage_event() + b"\n" + DONE, cuts=[1, 2])
@example(stream=chunk_event() + usage_event(b"\r\n\r\n") + DONE, cuts=[])
@example(stream=usage_event()[:-2], cuts=[5])
def test_only_the_usage_event_is_taken_out(stream: bytes, cuts: list[int]) -> None:
    """The client gets the stream less the usage event, in order, wherever the chunks end."""
    got = b"".join(pass_through(StreamObserver(drop_usage=True), stream, cuts))
    assert got == without_usage(stream)


@given(stream=streams, cuts=cut_places, drop_usage=st.booleans())
def test_nothing_is_held_but_an_unfinished_event(stream: bytes, cuts: list[int], drop_usage: bool) -> None:
    """After each chunk everything up to the end of the last whole event is out."""
    observer = StreamObserver(drop_usage=drop_usage)
    came = sent = b""
    borders = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    for begin, end in itertools.pairwise(borders):
        came += stream[begin:end]
        sent += observer.feed(stream[begin:end])
        whole = max((came.rfind(end) + len(end) for end in (b"\n\n", b"\n\r\n") if end in came), default=0)
        expected = without_usage(came[:whole]) if drop_usage else came[:whole]
        # A blank line more or less is no event.
        assert sent.rstrip(b"\r\n") == expected.rstrip(b"\r\n")


@given(cuts=cut_places, end=ends)
def test_usage_and_finish_reason_are_read_whatever_the_chunks(cuts: list[int], end: bytes) -> None:
    """Usage and the reason to stop are known at the end, wherever the chunks end, with LF and with CRLF."""
    stream = chunk_event() + chunk_event(reason="stop") + usage_event() + DONE
    stream = stream.replace(b"\n\n", end)
    observer = StreamObserver(drop_usage=True)
    pass_through(observer, stream, cuts)
    assert observer.usage is not None
    assert (observer.usage.prompt_tokens, observer.usage.completion_tokens) == (7, 3)
    assert observer.usage.cached_tokens == 4
    assert observer.finish_reason == "stop"
    assert not observer.failed


def test_usage_in_the_text_is_text() -> None:
    """A model that writes about usage, or writes a usage event, loses nothing of it."""
    stream = chunk_event('{"choices":[],"usage":{"completion_tokens":99}}') + chunk_event('"usage"') + DONE
    observer = StreamObserver(drop_usage=True)
    assert observer.feed(stream) == stream
    assert observer.usage is None


def test_finish_reason_in_the_text_is_text() -> None:
    """A model that writes `"finish_reason":"length"` was not cut for that."""
    observer = StreamObserver(drop_usage=True)
    observer.feed(chunk_event('"finish_reason":"length"'))
    assert observer.finish_reason is None


def test_continuous_usage_stays_and_the_last_one_counts() -> None:
    """Usage beside a choice is part of the answer: it goes out, and the newest one is the count."""
    counts = [{"completion_tokens": count} for count in (1, 2, 3)]
    stream = b"".join(chunk_event(usage=usage) for usage in counts) + DONE
    observer = StreamObserver(drop_usage=True)
    assert observer.feed(stream) == stream
    assert observer.usage == Usage(completion_tokens=3)


def test_several_choices_end_with_one_usage() -> None:
    """With n>1 each choice ends by itself; only the one usage event at the end is ours."""
    choices = [event({"choices": [{"index": i, "finish_reason": "stop"}]}) for i in (1, 0)]
    observer = StreamObserver(drop_usage=True)
    got = b"".join(observer.feed(part) for part in (*choices, usage_event(), DONE))
    assert got == b"".join(choices) + DONE
    assert observer.usage is not None


def test_a_usage_event_without_its_blank_line_is_taken_out_too() -> None:
    """An engine that forgets the last newline changes nothing for the client."""
    observer = StreamObserver(drop_usage=True)
    assert observer.feed(chunk_event() + usage_event()[:-2]) + observer.close() == chunk_event()
    assert observer.usage is not None


def test_an_event_without_its_blank_line_comes_at_the_end() -> None:
    """The last event is passed on even where its blank line is missing."""
    observer = StreamObserver(drop_usage=True)
    assert observer.feed(b"data: [DONE]") + observer.close() == b"data: [DONE]"


@pytest.mark.parametrize("drop_usage", [False, True])
def test_a_giant_event_is_not_hoarded(drop_usage: bool) -> None:
    """An event that cannot be the usage event any more flows on; memory stays bounded, no byte is lost."""
    giant = b"data: " + b"x" * (3 * MOST_HELD_BYTES)
    stream = giant + b"\n\n" + usage_event() + DONE
    observer = StreamObserver(drop_usage=drop_usage)
    got = b""
    for begin in range(0, len(stream), 1000):
        came = stream[: begin + 1000]
        got += observer.feed(stream[begin : begin + 1000])
        assert len(came) - len(got) <= MOST_HELD_BYTES + 1000
    got += observer.close()
    assert got == (giant + b"\n\n" + DONE if drop_usage else stream)
    assert observer.usage is not None


@given(cuts=cut_places, end=ends)
def test_after_a_giant_event_order_returns(cuts: list[int], end: bytes) -> None:
    """The end of a giant event is found even where a chunk border falls into its blank line."""
    giant = b"data: " + b"x" * (MOST_HELD_BYTES + 10)
    borders = [MOST_HELD_BYTES + 7 + cut % 40 for cut in cuts]
    observer = StreamObserver(drop_usage=True)
    got = pass_through(observer, giant + end + usage_event(end) + DONE, borders)
    assert b"".join(got) == giant + end + DONE


def test_begun_waits_for_an_event() -> None:
    """Blank lines begin nothing; half an event does not either; a whole one or an overlong one does."""
    observer = StreamObserver(drop_usage=True)
    for piece in (b"\n\n", b"\r\n\r\n", b"data: {"):
        observer.feed(piece)
        assert not observer.begun
    observer.feed(b"}\n\n")
    assert observer.begun
    overlong = StreamObserver(drop_usage=True)
    overlong.feed(b"data: " + b"x" * (MOST_HELD_BYTES + 1))
    assert overlong.begun


def test_an_error_in_the_stream_is_noticed() -> None:
    """An error event after tokens is passed on as sent, and the answer does not count as complete."""
    stream = chunk_event() + event({"error": {"message": "out of memory", "code": 500}}) + DONE
    observer = StreamObserver(drop_usage=True)
    assert observer.feed(stream) == stream
    assert observer.failed


@pytest.mark.parametrize(
    "usage",
    [
        {"completion_tokens": -5},
        {"completion_tokens": 10**30},
        {"completion_tokens": 1.5},
        {"completion_tokens": "many"},
        {"completion_tokens": None},
        {"prompt_tokens_details": [1]},
        [1],
        "none",
        True,
        None,
    ],
)
def test_lies_about_usage_are_no_usage(usage: Any) -> None:
    """Counts that cannot be are left unknown; a stream and an answer with such stay whole."""
    observer = StreamObserver(drop_usage=True)
    stream = chunk_event(usage=usage) + DONE
    assert observer.feed(stream) == stream
    assert observer.usage is None or observer.usage.completion_tokens is None
    answer = decode_answer(json.dumps({"choices": [{"finish_reason": "stop"}], "usage": usage}).encode())
    assert answer.usage is None or answer.usage.completion_tokens is None
    assert answer.finish_reason == "stop"


@pytest.mark.parametrize("document", [{"choices": 5}, {"choices": [{"finish_reason": 5}]}, [1, 2], 7, {}])
def test_an_answer_of_another_shape_is_still_json(document: Any) -> None:
    """Only what is not JSON is garbage; a shape that we do not know is none of our business."""
    assert decode_answer(json.dumps(document).encode()).finish_reason is None


@pytest.mark.parametrize("depth", [10, 5_000, 200_000])
def test_deep_nesting_breaks_nothing(depth: int) -> None:
    """Deeply nested JSON in a stream goes through unread."""
    nested = b"data: " + b'{"usage":' * depth + b"1" + b"}" * depth + b"\n\n"
    observer = StreamObserver(drop_usage=True)
    assert observer.feed(nested) + observer.close() == nested


@pytest.mark.parametrize(
    ("payload", "found"),
    [
        (b'{"error":{"message":"full","code":503}}', ("full", 503)),
        (b'{"error":{"message":"full","code":"queue_full"}}', ("full", None)),
        (b'{"error":{"message":"full","code":200}}', ("full", None)),
        (b'{"error":{"message":"full","code":503.0}}', ("full", None)),
        (b'{"error":{"message":null,"code":503}}', ("the engine gave no reason", 503)),
        (b'{"error":{"message":{"deep":1}}}', ("the engine gave no reason", None)),
        (b'{"error":{}}', ("the engine gave no reason", None)),
        (b'{"error":"full"}', ("full", None)),
        (b'{"error":["full"]}', ("the engine gave no reason", None)),
        (b'{"error":null,"choices":[]}', None),
        (b'{"choices":[{"delta":{"content":"\\"error\\""}}]}', None),
        (b'{"error":', None),
        (b'["error"]', None),
        (b"[DONE]", None),
        (b'{"error":' * 5000, None),
    ],
)
def test_error_events_are_told_from_others(payload: bytes, found: tuple[str, int | None] | None) -> None:
    """An error event gives its message and, where the engine names one, its HTTP status."""
    assert leading_error(b"data: " + payload + b"\n\n") == found
    assert leading_error(b"event: error\r\ndata:" + payload + b"\r\n\r\n") == found


def test_data_of_an_event() -> None:
    """The payload is the data lines, joined by newlines; comments and other fields have none."""
    assert data_of(b": keep-alive\n\n") is None
    assert data_of(b"event: x\nid: 1\ndata: a\ndata:b\n\n") == b"a\nb"
    assert data_of(b"data: a\r\n\r\n") == b"a"


def test_the_leading_error_is_the_first_events() -> None:
    """Comments before it do not hide an error; an error after a good event does not lead."""
    failed = event({"error": {"message": "full", "code": 503}})
    assert leading_error(b": keep-alive\n\n\n" + failed + DONE) == ("full", 503)
    assert leading_error(failed.strip()) == ("full", 503)
    assert leading_error(chunk_event() + failed) is None
    assert leading_error(b"") is None
