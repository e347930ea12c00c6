"""Whose turn it is, and at which engine: over tiers and replicas as they stand."""

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Final

from proxy.scheduling.queued import QueuedRequest
from proxy.scheduling.replica import Replica
from proxy.scheduling.tier import Tier

_RUNNING: Final = attrgetter("running")


def next_dispatch(
    tiers: Iterable[Tier], replicas: Iterable[Replica], now_us: int
) -> tuple[Tier, Replica, QueuedRequest] | None:
    """The tier whose turn it is, the least busy engine that takes it, and the request; the tiers have noted it.

    Whoever is next in a tier and waits for nothing but room in a KV cache keeps the worse tiers from there:
    they would fill it up again and again. Better ones may go.
    """
    with_room = [replica for replica in replicas if replica.has_room]
    if not with_room:
        return None
    with_room.sort(key=_RUNNING)
    waiting = [tier for tier in tiers if len(tier.queue)]
    if len(waiting) > 1:
        waiting.sort(key=lambda tier: (not tier.claims, tier.number))
    held: list[tuple[int, Replica]] = []
    for tier in waiting:
        item = tier.queue.next()
        if item is None:
            continue
        usable = _usable(tier, with_room, held, now_us)
        replica = _taker(item, usable)
        if replica is not None:
            for other in waiting:
                other.dispatched(here=other is tier)
            return tier, replica, item
        held += [(tier.number, one) for one in usable]
    return None


def _usable(
    tier: Tier, with_room: Iterable[Replica], held: Sequence[tuple[int, Replica]], now_us: int
) -> list[Replica]:
    """Where a tier may send now, KV cache aside."""
    return [
        one
        for one in with_room
        if tier.may_use(one.window, one.by_tier.get(tier.number, 0), now_us)
        and not any(number < tier.number and holder is one for number, holder in held)
    ]


def _taker(item: QueuedRequest, usable: Iterable[Replica]) -> Replica | None:
    """The least busy engine whose KV cache bears it; the one that has its prompt cached if that does too."""
    found: Replica | None = None
    for replica in usable:
        if not replica.bears(item):
            continue
        if replica.name == item.bound_to or item.bound_to is None:
            return replica
        found = found or replica
    return found
