"""Each engine's window, divided among the proxies that send to it: a heartbeat in Redis, and a place for a place."""

import asyncio
import logging
from contextlib import suppress
from heapq import nsmallest
from ipaddress import ip_address
from socket import gethostname
from typing import Final
from urllib.parse import urlsplit

import msgspec

from proxy.clock import Clock
from proxy.dispatcher import Dispatcher
from proxy.engines.priorities import TIER_STEP
from proxy.scheduling.fleet import FleetWindow, Part, Standing, divided, grouped
from proxy.scheduling.window import WindowController
from proxy.shared.link import Link
from proxy.windows import Share, Windows

_LOG: Final = logging.getLogger("headway.redis")
_PART: Final = "windows"
_BEAT_S: Final = 0.5
# While somebody waits, a place that one gives up is soon another's.
_QUICK_BEAT_S: Final = 0.15
# A proxy that has not been heard of for so long has no places any more.
_LEASE_MS: Final = 2_500
# Without Redis the last division holds for so long; then each proxy goes by what it sees of the engine itself.
_KEEP_US: Final = 30_000_000
_FIRST_BEAT_S: Final = 1.0
_MOST_KEYS: Final = 256
# Grants at most what the others leave, and tells what they have. Atomic, so that two who ask at once cannot both
# have the same place. Redis's own clock ends leases. The first name, in order, says how many places there are.
_GRANT: Final = """
local me, window, wanted, at_engine = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held, live, leader, others = 0, 1, true, {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local name, ends, places, there = all[i], string.match(all[i + 1], '^(%d+) (%d+) (%d+) ')
  if ends and name ~= me then
    if tonumber(ends) < now then
      redis.call('HDEL', KEYS[1], name)
    else
      held = held + math.max(tonumber(places), tonumber(there))
      live = live + 1
      leader = leader and me < name
      others[#others + 1] = name
      others[#others + 1] = all[i + 1]
    end
  end
end
if leader and window > 0 then
  redis.call('HSET', KEYS[1], ':window', window)
else
  window = tonumber(redis.call('HGET', KEYS[1], ':window')) or window
end
if window == 0 then window = wanted end
local places = math.max(0, math.min(wanted, math.max(window, live) - held))
local ends = now + tonumber(ARGV[5])
redis.call('HSET', KEYS[1], me, string.format('%.0f %d %d ', ends, places, at_engine) .. ARGV[6])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return {places, window, others}
"""


class Places:
    """This proxy's places at each engine, renewed by every heartbeat."""

    def __init__(
        self, link: Link, proxy_id: str, dispatcher: Dispatcher, windows: Windows, clock: Clock
    ) -> None:
        self._link = link
        self._proxy_id = proxy_id
        self._dispatcher = dispatcher
        self._windows = windows
        self._clock = clock
        self._grant = link.client.register_script(_GRANT)
        # Engines that others send to as well, and this proxy's part of each by the last beat.
        self._fleets: dict[str, FleetWindow] = {}
        self._parts: dict[str, Part] = {}
        self._held: set[str] = set()
        self._beaten_us = 0
        self.proxies = 1

    def hold(self, engine: str) -> None:
        """A new engine: nothing is sent before it is known who else sends to it."""
        self._held.add(engine)
        self._share(engine, Share(0, "asking the other proxies"))

    def forget(self, engine: str) -> None:
        """The engine has left: what is known of others that send to it is of no use any more."""
        self._held.discard(engine)
        self._fleets.pop(engine, None)
        self._parts.pop(engine, None)

    async def run(self) -> None:
        """Beat until cancelled. Where the first beat fails, this proxy begins on its own."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_BEAT_S):
                await self._link.attempt(_PART, self._beat)
        while True:
            self._stop_waiting()
            busy = self._fleets and self._dispatcher.scheduler.waiting
            await asyncio.sleep(_QUICK_BEAT_S if busy else _BEAT_S)
            await self._link.turn(_PART, self._beat)

    async def close(self) -> None:
        """Leave, so that the others need not wait for the leases to end."""
        await self._link.attempt(_PART, self._leave)

    async def _leave(self) -> bool:
        if not self._beaten_us:
            return False
        for replica in self._dispatcher.scheduler.replicas:
            await self._link.client.hdel(_key(replica.name), self._proxy_id)
        return False

    def _stop_waiting(self) -> None:
        """Without an answer new engines are not held for long, and the last division does not stand for ever."""
        for engine in self._held:
            self._share(engine, None)
        self._held.clear()
        if self._fleets and self._clock.now_us() - self._beaten_us > _KEEP_US:
            _LOG.warning(
                "nothing is known of the other proxies any more: each engine's window is found alone"
            )
            for engine in self._fleets:
                self._share(engine, None)
            self._forget_all()

    def _forget_all(self) -> None:
        self._fleets.clear()
        self._parts.clear()
        self.proxies = 1

    async def _beat(self) -> bool:
        groups = grouped(self._best_keys()) if self._fleets else ()
        proxies, asked = 1, False
        for replica in self._dispatcher.scheduler.replicas:
            if replica.name not in self._windows:
                # It left while another one's places were asked for.
                continue
            controller = self._windows.controller(replica.name)
            if controller is None:
                self._share(replica.name, None)
                continue
            own = Standing(replica.running, controller.running, groups)
            proxies = max(proxies, await self._beat_for(replica.name, own, controller))
            asked = True
        self.proxies = proxies
        self._beaten_us = self._clock.now_us()
        return asked

    async def _beat_for(self, engine: str, own: Standing, controller: WindowController) -> int:
        """One engine's heartbeat; returns how many proxies send to it."""
        window = self._window(engine, controller)
        part = self._parts.get(engine) or Part(controller.window)
        places, agreed, others = await self._ask(engine, window, part.places, own)
        if engine not in self._windows or not others:
            self.forget(engine)
            self._share(engine, None)
            return 1
        self._held.discard(engine)
        standings = {self._proxy_id: own, **others}
        fleet = self._fleets.get(engine)
        if fleet is None:
            fleet = self._fleets[engine] = FleetWindow(agreed, opening=controller.opening)
        if self._proxy_id < min(others):
            fleet.observe(standings, controller.polled, controller.stay_us, self._clock.now_us())
        else:
            fleet.follow(agreed)
        self._parts[engine] = part
        wanted = part.follow(agreed, divided(agreed, standings)[self._proxy_id])
        if wanted > places:
            places, _, _ = await self._ask(engine, window, wanted, own)
        # Less is taken at once, more only once it is granted.
        reason = f"its part of {agreed} that {len(standings)} proxies share"
        self._share(engine, Share(min(places, wanted), reason))
        return len(standings)

    async def _ask(
        self, engine: str, window: int, wanted: int, own: Standing
    ) -> tuple[int, int, dict[str, Standing]]:
        """The places granted, the places that there are, and what the others say."""
        args = [self._proxy_id, window, wanted, own.at_engine, _LEASE_MS, msgspec.msgpack.encode(own)]
        places, agreed, others = await self._grant(keys=[_key(engine)], args=args)
        return places, agreed, _decoded(others)

    def _window(self, engine: str, controller: WindowController) -> int:
        """How many places there are, should this proxy be asked; 0: it has only just come and cannot say."""
        if self._windows.fixed is not None:
            return self._windows.fixed
        if engine in self._fleets:
            return self._fleets[engine].window
        return 0 if engine in self._held else controller.window

    def _best_keys(self) -> list[int]:
        keys = (
            key + tier.number * TIER_STEP
            for tier in self._dispatcher.scheduler.tiers
            for tenant in tier.queue.backlogged()
            for key in tenant.waiting.best_keys(_MOST_KEYS)
        )
        return nsmallest(_MOST_KEYS, keys)

    def _share(self, engine: str, share: Share | None) -> None:
        if engine not in self._windows:
            # It left while its places were asked for.
            return
        self._dispatcher.apply(self._windows.share(engine, share, self._clock.now_us()))


def _decoded(found: list[bytes]) -> dict[str, Standing]:
    """The others' standings by their names; one of another version counts as a proxy with nothing to say."""
    pairs = zip(found[::2], found[1::2], strict=True)
    return {name.decode("utf-8", "replace"): _standing(value.split(b" ", 3)[3]) for name, value in pairs}


def _standing(data: bytes) -> Standing:
    try:
        return msgspec.msgpack.decode(data, type=Standing)
    except msgspec.DecodeError:
        return Standing(0, 0.0)


def _key(engine: str) -> str:
    """An engine's key; two hosts that call theirs by a loopback address do not mean the same one."""
    host = urlsplit(engine).hostname or ""
    return f"headway:places:{gethostname()}:{engine}" if _is_loopback(host) else f"headway:places:{engine}"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
