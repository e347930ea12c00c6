"""Whose turn it is, and at which engine: over tiers and replicas as they stand."""

from collections.abc import Collection, Iterable
from operator import attrgetter
from typing import Final

from proxy.scheduling.queued import QueuedRequest
from proxy.scheduling.replica import Replica
from proxy.scheduling.tier import Tier

_RUNNING: Final = attrgetter("running")


def next_dispatch(
    tiers: Iterable[Tier], replicas: Collection[Replica], now_us: int
) -> tuple[Tier, Replica, QueuedRequest] | None:
    """The tier whose turn it is, the least busy engine that takes it, and the request; the tiers have noted it.

    Whoever is next in a tier and waits for nothing but room in a KV cache keeps the worse tiers from there:
    they would fill it up again and again. Better ones may go. `tiers`: best first.
    """
    with_room = [replica for replica in replicas if replica.has_room]
    if not with_room:
        return None
    if len(with_room) > 1:
        with_room.sort(key=_RUNNING)
    waiting = [tier for tier in tiers if len(tier.queue)]
    if len(waiting) > 1:
        waiting.sort(key=lambda tier: not tier.claims)
    held: list[tuple[int, Replica]] = []
    for tier in waiting:
        item = tier.queue.next()
        replica = None if item is None else _taker(tier, item, with_room, held, now_us)
        if item is not None and (home := _home(item, replicas)) is not None:
            # One too many there waits in its own queue, and keeps nobody here from the other engines.
            replica = home if home.window != 0 and tier.may_use(None, 0, now_us) else None
        if replica is not None and item is not None:
            for other in waiting:
                other.dispatched(here=other is tier)
            return tier, replica, item
    return None


def _home(item: QueuedRequest, replicas: Iterable[Replica]) -> Replica | None:
    """The one engine that can answer it, while it is there."""
    if item.kept_at is None:
        return None
    return next((one for one in replicas if one.available and one.name == item.kept_at), None)


def _taker(
    tier: Tier,
    item: QueuedRequest,
    with_room: Iterable[Replica],
    held: list[tuple[int, Replica]],
    now_us: int,
) -> Replica | None:
    """The least busy engine that may take it now; the one that has its prompt cached if that is free too.

    Where only the KV cache is in the way, it is `held` from now on, by the tier of this number.
    """
    found: Replica | None = None
    for replica in with_room:
        used = replica.by_tier.get(tier.number, 0)
        if not tier.may_use(replica.window, used, now_us):
            continue
        if held and any(number < tier.number and one is replica for number, one in held):
            continue
        if not replica.bears(item):
            held.append((tier.number, replica))
        elif replica.name == item.bound_to or item.bound_to is None:
            return replica
        else:
            found = found or replica
    return found
