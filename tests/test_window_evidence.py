"""What the window takes for evidence, event by event: what counts, what does not, and nothing breaks its bounds."""

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.scheduling.level import Limits
from proxy.scheduling.window import WindowController


def some(controller: WindowController, count: int, now_us: int = 0) -> None:
    """Send so many requests at once."""
    for seq in range(controller.at_engine, controller.at_engine + count):
        controller.sent(seq, now_us, streamed=True)


def test_a_refusal_by_the_engine_is_a_ceiling_for_a_minute() -> None:
    """An engine that answers 503 at its own limit is sent fewer, and is tried again later."""
    controller = WindowController(Limits(initial=10))
    some(controller, 10)
    controller.refused(9, 1_000)
    assert controller.window == 9
    assert "limit" in controller.reason
    for seq in range(9):
        controller.first_byte(seq, 20_000)
    assert controller.window == 9
    for seq in range(9):
        controller.ended(seq, 70_000_000)
    some(controller, 9, 70_000_000)
    for seq in range(9):
        controller.first_byte(seq, 70_020_000)
    assert controller.window == 18


def test_cancelled_requests_are_no_evidence() -> None:
    """Requests that were cancelled or failed leave the window as it was, and leave nothing behind."""
    controller = WindowController()
    some(controller, 8)
    for seq in range(8):
        controller.ended(seq, 5_000, answered=False)
    assert (controller.window, controller.at_engine) == (8, 0)


def test_a_long_prefill_does_not_close_the_window_for_good() -> None:
    """A prompt that takes a hundred times the fastest prefill looks like a full engine until it begins."""
    controller = WindowController()
    controller.sent(0, 0, streamed=True)
    controller.first_byte(0, 10_000)
    controller.sent(1, 20_000, streamed=True)
    controller.gauges(2, 0, 0.1, 1_000_000)
    controller.sent(2, 1_000_000, streamed=True)
    assert "full" in controller.reason
    controller.first_byte(1, 1_010_000)
    controller.first_byte(2, 1_020_000)
    assert "opening" in controller.reason


EVENT = st.tuples(
    st.sampled_from(["sent", "first", "ended", "cancelled", "refused", "gauges", "reset"]),
    st.integers(0, 12),
    st.integers(-1_000, 3_000_000),
    st.booleans(),
    st.one_of(st.none(), st.integers(0, 1 << 40)),
)


def apply(controller: WindowController, event: tuple[str, int, int, bool, int | None], now_us: int) -> None:
    """One event of any kind, for a known or unknown request."""
    kind, seq, _, flag, number = event
    match kind:
        case "sent":
            controller.sent(seq, now_us, streamed=flag)
        case "first":
            controller.first_byte(seq, now_us)
        case "ended" | "cancelled":
            controller.ended(seq, now_us, number, answered=kind == "ended")
        case "refused":
            controller.refused(seq, now_us)
        case "gauges":
            controller.gauges(seq, (number or 0) % 2_000, 1.0 if flag else 0.5, now_us)
        case _:
            controller.reset()


@given(st.lists(EVENT, max_size=120), st.integers(1, 8), st.integers(0, 40))
@settings(max_examples=300, deadline=None)
def test_any_order_of_events_keeps_the_window_in_its_bounds(
    events: list[tuple[str, int, int, bool, int | None]], minimum: int, more: int
) -> None:
    """Unknown, repeated and misplaced events, clocks that step back: no error, no window out of bounds."""
    controller = WindowController(Limits(initial=minimum, minimum=minimum, maximum=minimum + more))
    there: set[int] = set()
    now_us = 0
    for event in events:
        now_us += event[2]
        apply(controller, event, now_us)
        if event[0] == "sent":
            there.add(event[1])
        elif event[0] in ("ended", "cancelled", "refused"):
            there.discard(event[1])
        assert minimum <= controller.window <= minimum + more
        assert controller.at_engine == len(there)
        assert controller.reason
