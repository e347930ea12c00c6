"""The overhead benchmark's own parts: it counts what was sent, however it arrives, and its figures are right."""

import asyncio
from itertools import pairwise
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.canned_engine import PACES, Connection, Ticker, answer
from bench.cases import cases, chat_request
from bench.http_reading import AnswerReader, HttpError, content_length
from bench.load import Load, Sample, drive
from bench.summary import Measurement, Spread, added_ratio, p50_s, percentile

EVENTS = st.lists(st.binary(max_size=40).filter(lambda data: b"\n\n" not in data), min_size=1, max_size=8)


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(places)]


def read(reader: AnswerReader, pieces: list[bytes]) -> list[bool]:
    return [reader.feed(piece) for piece in pieces]


@given(body=st.binary(max_size=200), cuts=st.lists(st.integers(min_value=0), max_size=10))
def test_an_answer_with_a_length_ends_with_its_last_byte(body: bytes, cuts: list[int]) -> None:
    """Cut anywhere, it is complete at its last byte and no sooner."""
    whole = b"HTTP/1.1 429 Too Many\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    reader = AnswerReader(counts_events=False)
    complete = read(reader, in_pieces(whole, cuts))
    assert complete == [False] * (len(complete) - 1) + [True]
    assert (reader.status, reader.body_bytes) == (429, len(body))


@given(
    events=EVENTS, sizes=st.lists(st.integers(1, 30)), cuts=st.lists(st.integers(min_value=0), max_size=10)
)
def test_events_are_counted_however_they_arrive(
    events: list[bytes], sizes: list[int], cuts: list[int]
) -> None:
    """Events cut into chunks and pieces at any place are counted once each, and the last chunk ends the answer."""
    payload = b"".join(b"data:" + event.replace(b"\n", b" ") + b"\n\n" for event in events)
    chunks = in_pieces(payload, sizes)
    framed = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"
    reader = AnswerReader(counts_events=True)
    complete = read(reader, in_pieces(whole, cuts))
    assert complete == [False] * (len(complete) - 1) + [True]
    assert (reader.events, reader.body_bytes) == (len(events), len(payload))


@pytest.mark.parametrize(
    "data",
    [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab"],
)
def test_what_cannot_be_counted_is_an_error(data: bytes) -> None:
    """No HTTP, no end in sight, or more than was declared: the measurement stops instead of counting it."""
    with pytest.raises(HttpError):
        AnswerReader(counts_events=False).feed(data)


@given(st.integers(130, 5_000))
def test_a_request_is_as_long_as_the_case_says(body_bytes: int) -> None:
    """Sizes in the report are sizes on the wire."""
    head, _, body = chat_request(body_bytes=body_bytes).partition(b"\r\n\r\n")
    assert len(body) == body_bytes == content_length(head.lower() + b"\r\n")


def test_a_percentile_is_a_measured_value() -> None:
    """Nearest rank: the smallest value that at least so many per cent do not exceed."""
    values = [float(value) for value in range(100, 0, -1)]
    assert [percentile(values, percent) for percent in (0, 1, 50, 99, 99.5, 100)] == [1, 1, 50, 99, 100, 100]
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)


def test_ratios_are_taken_within_a_round() -> None:
    """A round in which the machine was twice as slow for everybody has the same ratio as any other."""

    def rounds(*seconds: float) -> list[Measurement]:
        return [Measurement(Sample(e2e_s=[value]), cpu_s=0.0) for value in seconds]

    ratio = added_ratio(rounds(3.5, 7.0), floor=rounds(3.0, 6.0), direct=rounds(1.0, 2.0), figure=p50_s)
    assert ratio == Spread(1.25, 1.25, 1.25)


@pytest.mark.parametrize("name", ["unary-1-8k", "unary-32", "stream-1"])
async def test_the_engine_answers_every_case(name: str) -> None:
    """The load gets from the canned engine what the case expects: so many answers, each whole."""
    case = next(case for case in cases(quick=True) if case.name == name)
    tickers = {f"canned-{pace}": Ticker(pace) for pace in PACES}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(tickers), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        load = Load(case.load.request, case.load.connections, count=40, events=case.load.events, limit_s=60)
        sample = await drive(port, load)
    assert (sample.answers, sample.events) == (40, 40 * case.load.events)


async def test_a_refusal_is_no_measurement() -> None:
    """An answer other than 200 ends the run with the status and the words of the server."""
    loop = asyncio.get_running_loop()

    class Refusing(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast(asyncio.Transport, transport)

        def data_received(self, data: bytes) -> None:
            self.transport.write(answer({"detail": "too many"}, "429 Too Many Requests"))

    async with await loop.create_server(Refusing, "127.0.0.1", 0) as server:
        with pytest.raises(HttpError, match=r"429.*too many"):
            await drive(server.sockets[0].getsockname()[1], Load(chat_request(body_bytes=200), 4, 8))
