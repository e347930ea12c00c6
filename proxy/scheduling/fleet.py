"""Several proxies before one engine: how many places each gets. Pure; proxies that know the same decide the same."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from proxy.scheduling.level import Level, Limits
from proxy.scheduling.window import Polled
from proxy.scheduling.witness import Gauges

_GROUPS: Final = 8
# Of so many places one less is little; so many beats in a row must say so before it is given up.
_FEW: Final = 8
_LASTS: Final = 4
_FRESH_US: Final = 5_000_000


class Standing(msgspec.Struct, frozen=True, array_like=True):
    """One proxy's word about one engine.

    `at_engine` of its requests are there, of which `running` are computed. `waiting` are those it holds, best
    first, in a few groups: the key of the group's last one, and how many they are.
    """

    at_engine: int
    running: float
    waiting: tuple[tuple[int, int], ...] = ()


def grouped(keys: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Sorted keys as the groups of a Standing."""
    size = -(-len(keys) // _GROUPS) or 1
    groups = (keys[start : start + size] for start in range(0, len(keys), size))
    return tuple((group[-1], len(group)) for group in groups)


def divided(total: int, standings: Mapping[str, Standing]) -> dict[str, int]:
    """The places of each proxy, at least one; together `total`, or one each where that is more.

    Each asks for what it has at the engine, and for those of its waiters who are among the next `total` of all
    proxies together. Where there is enough for all, what is left over is divided evenly, so that nobody's next
    request waits for a place; where there is not, places go in proportion, which lets the keys of all proxies
    be served in about one order.
    """
    following = _following(total, standings)
    wanted = {name: one.at_engine + following[name] for name, one in standings.items()}
    spare = total - sum(wanted.values())
    if spare >= 0:
        exact = {name: want + spare / len(wanted) for name, want in wanted.items()}
    else:
        exact = {name: total * want / sum(wanted.values()) for name, want in wanted.items()}
    return _rounded(total, exact)


def _following(total: int, standings: Mapping[str, Standing]) -> dict[str, int]:
    """How many of each proxy's waiters are among the best `total` of all."""
    groups = sorted((key, name, count) for name, one in standings.items() for key, count in one.waiting)
    found = dict.fromkeys(standings, 0)
    left = total
    for _, name, count in groups:
        found[name] += min(count, left)
        left -= min(count, left)
    return found


def _rounded(total: int, exact: Mapping[str, float]) -> dict[str, int]:
    """Whole places: what rounding leaves goes to the largest remainders; one at least, taken from the largest."""
    places = {name: max(1, int(value)) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (int(exact[name]) - exact[name], name))
    for name in by_remainder[: max(0, total - sum(places.values()))]:
        places[name] += 1
    while sum(places.values()) > total and max(places.values()) > 1:
        largest = max(places, key=lambda name: (places[name], name))
        places[largest] -= 1
    return places


class Part:
    """The places that one proxy goes for: its part of all, but a little less only once that has lasted.

    A place on its way from one proxy to another is nobody's, and parts move by one as answers end. Whoever never
    gave up the last few would stay ahead of all with them, its callers served before those who came earlier.
    """

    def __init__(self, places: int) -> None:
        self.places = places
        self._agreed = 0
        self._less = 0

    def follow(self, agreed: int, part: int) -> int:
        """Another beat, by which `part` of the `agreed` places are this proxy's; returns those to go for."""
        steady, self._agreed = agreed == self._agreed, agreed
        a_little = self.places - max(1, self.places // _FEW) <= part < self.places
        self._less = self._less + 1 if steady and a_little else 0
        if not 0 < self._less < _LASTS:
            self.places, self._less = part, 0
        return self.places


class FleetWindow:
    """How many requests of all proxies together may be at one engine: found as one proxy finds it from gauges."""

    def __init__(self, window: int, *, opening: bool = False) -> None:
        """`window`: how many it was when they came together; `opening`: it has not been found yet."""
        self._level = Level(Limits(initial=window))
        if not opening:
            self._level.settle(window - self._level.slack)
        self._gauges = Gauges(self._level)
        self._polled_us = 0

    @property
    def window(self) -> int:
        """The places there are."""
        return self._level.window

    def follow(self, window: int) -> None:
        """Another proxy says how many there are; this one goes on from there, should it have to."""
        if window != self._level.window:
            self._level.settle(window - self._level.slack)

    def observe(
        self, standings: Mapping[str, Standing], polled: Polled | None, stay_us: float, now_us: int
    ) -> None:
        """All proxies have spoken again.

        `polled`: the engine's latest gauges, which tell best, as the proxies see only their own part each;
        `stay_us`: how long a request is at the engine, 0 if unknown.
        """
        if stay_us:
            self._level.stayed(round(stay_us))
        at_engine = sum(one.at_engine for one in standings.values())
        self._gauges.sent(at_engine)
        if polled is not None and now_us - polled.at_us < _FRESH_US:
            if polled.at_us != self._polled_us:
                self._polled_us = polled.at_us
                self._judge(polled.running, polled.waiting, polled.kv_usage, at_engine, now_us)
            return
        running = min(at_engine, round(sum(one.running for one in standings.values())))
        self._judge(running, at_engine - running, 0.0, at_engine, now_us)

    def _judge(self, running: int, waiting: int, kv_usage: float, at_engine: int, now_us: int) -> None:
        self._gauges.polled(waiting, at_engine, now_us)
        self._gauges.judge(running, waiting, kv_usage, at_engine)
