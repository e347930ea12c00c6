"""Every end of a request is one span with its outcome, and no collector keeps a request or the proxy from its end."""

import threading
from typing import Any

import pytest
from harness import CHAT, ask_raw, chat, engine_of, eventually, outcomes, post, raw_client
from otlp_collector import ERROR, Collector, told, traced

from training.emulator import EmulatedEngine, Faults


@pytest.mark.parametrize(
    ("faults", "settings", "body", "end"),
    [
        (Faults(), {}, chat(), ("completed", 200, False)),
        (Faults(), {}, b"{", ("refused_invalid", 400, False)),
        (Faults(refuse=True), {}, chat(), ("engine_error", 503, True)),
        (Faults(cut_after=2), {}, chat(stream=True), ("engine_lost", 200, True)),
        (Faults(error_after=2), {}, chat(stream=True), ("engine_error", 200, True)),
        (Faults(hang=True), {"engine_timeout_s": 0.1}, chat(), ("engine_lost", 504, True)),
    ],
    ids=["whole", "invalid", "refused", "cut", "error", "silent"],
)
async def test_each_end_is_one_span(
    engine: EmulatedEngine,
    collector: Collector,
    faults: Faults,
    settings: dict[str, Any],
    body: bytes,
    end: tuple[str, int, bool],
) -> None:
    """With outcome and status; an error is what went wrong here or at the engine, not what a client sent."""
    engine.set_faults(faults)
    async with traced(collector, engine.url, **settings) as headway:
        await ask_raw(headway, post(CHAT, body))
        assert await outcomes(headway) == {end[0]: 1}
    span, said = collector.span, told(collector.span)
    failed = span.status.code == ERROR
    assert (said["headway.outcome"], said["http.response.status_code"], failed) == end
    assert said.get("error.type") == (end[0] if failed else None)


async def test_whoever_waited_or_left_has_a_span_too(collector: Collector) -> None:
    """A client that leaves while it runs or waits, a full queue, a deadline and a drain: each ends once."""
    settings = {"mode": "hold", "window": 1, "max_waiting": 1}
    async with engine_of([100_000]) as engine, traced(collector, engine.url, **settings) as headway:
        async with raw_client(headway) as first, raw_client(headway) as second:
            await first.send(post(CHAT, chat(stream=True)))
            await eventually(lambda: engine.inference.model.num_running == 1)
            await second.send(post(CHAT, chat()))
            await eventually(lambda: headway.status().waiting == 1)
            await ask_raw(headway, post(CHAT, chat()))
            second.reset()
            await eventually(lambda: headway.status().waiting == 0)
            await ask_raw(headway, post(CHAT, chat(), "x-headway-ttl: 0.001"))
            first.reset()
            await eventually(lambda: headway.status().running == 0)
        assert await headway.drain()
        await ask_raw(headway, post(CHAT, chat()))
        counted = await outcomes(headway)
    ends = [told(span)["headway.outcome"] for span in collector.spans]
    assert sorted(ends) == ["client_gone", "client_gone", "expired", "refused_draining", "refused_full"]
    assert counted == {end: ends.count(end) for end in ends}
    for span in collector.spans:
        assert span.end_time_unix_nano >= span.start_time_unix_nano > 0


async def test_a_defect_here_is_an_error_of_the_span(
    engine: EmulatedEngine, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends like any other."""

    def broken(*_: object) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr("proxy.serving.parse_body", broken)
    async with traced(collector, engine.url) as headway:
        await ask_raw(headway, post(CHAT, chat()))
    assert told(collector.span)["error.type"] == "internal_error"


async def test_names_that_clients_choose_cost_no_span(engine: EmulatedEngine, collector: Collector) -> None:
    """A tenant that is no UTF-8 and a model as long as a book leave readable spans of bounded size."""
    async with traced(collector, engine.url, trust_headers=True) as headway:
        await ask_raw(headway, post(CHAT, chat(), "x-headway-tenant: \udcff\udcfe"))
        await ask_raw(headway, post(CHAT, chat(model="m" * 1_000_000)))
    assert len(collector.spans) == 2
    assert len(collector.raw) < 10_000


async def test_a_silent_collector_keeps_nobody(
    engine: EmulatedEngine,
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Requests are answered, and the proxy stops, while the collector takes and never answers."""
    monkeypatch.setattr("proxy.spans._FLUSH_S", 0.01)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    collector.silent = True
    async with traced(collector, engine.url) as headway:
        assert (await ask_raw(headway, post(CHAT, chat()))).status == 200
        await eventually(lambda: len(collector.spans) == 1)
        assert (await ask_raw(headway, post(CHAT, chat()))).status == 200
    assert "did not take the last spans" in caplog.text
    # What tries again beside a later test draws random numbers there, which disturbs those that draw their cases.
    await eventually(lambda: all(thread.name != "last spans" for thread in threading.enumerate()))
