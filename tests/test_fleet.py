"""The division of an engine's window among proxies: whole, by need, in about one order."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.scheduling.fleet import FleetWindow, Part, Standing, divided, grouped

KEYS = st.lists(st.integers(0, 10**12), max_size=40).map(sorted)
STANDINGS = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=4),
    st.builds(lambda there, keys: Standing(there, float(there), grouped(keys)), st.integers(0, 50), KEYS),
    min_size=1,
    max_size=6,
)


@given(st.integers(1, 200), STANDINGS)
def test_the_whole_window_is_divided(total: int, standings: dict[str, Standing]) -> None:
    """Everybody has a place, and together they have the window, or one each where that is more."""
    places = divided(total, standings)
    assert places.keys() == standings.keys()
    assert min(places.values()) >= 1
    assert sum(places.values()) == max(total, len(standings))


@given(st.integers(1, 200), STANDINGS)
def test_everybody_divides_alike(total: int, standings: dict[str, Standing]) -> None:
    """The division does not depend on the order in which proxies are known."""
    assert divided(total, standings) == divided(total, dict(reversed(standings.items())))


@given(KEYS)
def test_groups_hold_everybody(keys: list[int]) -> None:
    """A few groups, in order, each counted, the last key the worst."""
    groups = grouped(keys)
    assert len(groups) <= 8
    assert sum(count for _, count in groups) == len(keys)
    assert [key for key, _ in groups] == sorted(key for key, _ in groups)
    assert not keys or groups[-1][0] == keys[-1]


def test_with_enough_for_all_nobody_goes_short() -> None:
    """Each gets what it uses and an even part of what is left."""
    assert divided(20, {"a": Standing(8, 8.0), "b": Standing(0, 0.0)}) == {"a": 14, "b": 6}


def test_places_go_where_the_best_keys_wait() -> None:
    """Of two proxies with as many at the engine, the one whose waiters come first in all gets more."""
    urgent = Standing(5, 5.0, grouped(list(range(10))))
    patient = Standing(5, 5.0, grouped(list(range(100, 200))))
    places = divided(10, {"a": urgent, "b": patient})
    assert places == {"a": 8, "b": 2}


def test_a_long_queue_gets_more_than_a_short_one() -> None:
    """Of queues with alike keys, places go by their lengths, so that both wait about as long."""
    long, short = (
        Standing(30, 30.0, grouped(list(range(0, 300, 1)))),
        Standing(10, 10.0, grouped(list(range(0, 300, 3)))),
    )
    places = divided(40, {"a": long, "b": short})
    assert 2 < places["a"] / places["b"] < 4


@given(st.integers(2, 60), st.integers(1, 60))
def test_whoever_is_ahead_of_all_gives_up_places(had: int, others: int) -> None:
    """However few it has: otherwise it would stay ahead, and its callers be served before those who came earlier."""
    total, part = had + others, Part(had)
    for _ in range(400):
        ahead = Standing(part.places, float(part.places), grouped(range(1000, 1100)))
        behind = Standing(total - part.places, 1.0, grouped(range(200)))
        part.follow(total, divided(total, {"a": ahead, "b": behind})["a"])
    assert part.places == 1


def test_a_little_less_for_a_moment_moves_no_place() -> None:
    """Parts move by one as answers end: a place is given up once that lasts, more of them at once."""
    part = Part(8)
    assert [part.follow(24, wanted) for wanted in (8, 7, 7, 8, 7, 7, 7, 7, 3)] == [8] * 7 + [7, 3]
    assert part.follow(24, 12) == 12
    assert part.follow(23, 11) == 11


def test_the_fleets_window_is_found() -> None:
    """It opens while all that is sent runs, and settles on what runs once a queue stands in the engine."""
    slots, window = 48, FleetWindow(8)
    for beat in range(60):
        halves = [window.window // 2, window.window - window.window // 2]
        running = [min(half, slots * half / window.window) for half in halves]
        told = {
            str(n): Standing(half, run) for n, (half, run) in enumerate(zip(halves, running, strict=True))
        }
        window.observe(told, None, 2e6, beat * 500_000)
    assert slots <= window.window <= slots + 4


def test_a_quiet_hour_does_not_shrink_the_window() -> None:
    """Little at the engine says nothing of how much it can take."""
    window = FleetWindow(100)
    for beat in range(100):
        window.observe({"a": Standing(3, 2.0), "b": Standing(1, 1.0)}, None, 1e6, beat * 500_000)
    assert window.window == 100
