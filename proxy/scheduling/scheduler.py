"""Who runs next, and where. Every change of state is one synchronous call that returns whom to start now."""

import msgspec

from predictor.prediction import Prediction
from proxy.scheduling.policy import Policy
from proxy.scheduling.queued import QueuedRequest, State
from proxy.scheduling.waiting import WaitingQueue


class Replica(msgspec.Struct, eq=False):
    """One engine. At most `window` requests are at it at once; None: no limit."""

    name: str
    window: int | None
    running: int = 0
    available: bool = True

    @property
    def has_room(self) -> bool:
        """Whether one more request may be sent now."""
        return self.available and (self.window is None or self.running < self.window)


class Scheduler:
    """The queue in front of the engines.

    `submit`, `cancel`, `finish`, `rekey` and the replica calls change the state and return the requests to
    send now, already marked running with their replica. The caller sends them; there is no other way to
    start a request. Promise: under a policy with an overtaking bound D nobody is dispatched after a request
    that arrived more than D later and could have run on the same replica.
    """

    def __init__(self, policy: Policy, *, lane_share: float = 0.0) -> None:
        """`lane_share` in [0, 1]: the share of dispatches that go to the oldest waiter whatever its key."""
        self._policy = policy
        self._lane_share = lane_share
        self._lane_credit = 0.0
        self._waiting = WaitingQueue()
        self._replicas: dict[str, Replica] = {}

    def __repr__(self) -> str:
        return f"<Scheduler {self._policy.name} waiting={self.waiting} running={self.running}>"

    @property
    def policy(self) -> Policy:
        """The policy that makes keys."""
        return self._policy

    @property
    def waiting(self) -> int:
        """Requests held here."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests sent to an engine and not yet finished."""
        return sum(replica.running for replica in self._replicas.values())

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """The engines, in the order in which they were added."""
        return tuple(self._replicas.values())

    def waiting_in_order(self) -> list[QueuedRequest]:
        """Everybody who waits, best key first."""
        return self._waiting.in_key_order()

    def add_replica(self, name: str, window: int | None, now_us: int) -> list[QueuedRequest]:
        """Add an engine; raises ValueError where the name is taken."""
        if name in self._replicas:
            raise ValueError(f"engine '{name}' is already there")
        self._replicas[name] = Replica(name, window)
        return self._start(now_us)

    def set_window(self, name: str, window: int | None, now_us: int) -> list[QueuedRequest]:
        """Change how many requests may be at one engine at once."""
        self._replicas[name].window = window
        return self._start(now_us)

    def set_available(self, name: str, available: bool, now_us: int) -> list[QueuedRequest]:
        """Stop or resume sending to one engine; what runs there goes on."""
        self._replicas[name].available = available
        return self._start(now_us)

    def submit(self, item: QueuedRequest, now_us: int) -> list[QueuedRequest]:
        """Admit a new request: it is keyed and waits, or starts at once."""
        item.key_us = self._policy.key_us(item.arrival_us, item.prediction)
        self._waiting.add(item)
        return self._start(now_us)

    def rekey(self, item: QueuedRequest, prediction: Prediction, now_us: int) -> list[QueuedRequest]:
        """A better prediction of a waiting request arrived; its arrival, and so the bound, stay."""
        item.prediction = prediction
        if item.state is State.WAITING:
            self._waiting.rekey(item, self._policy.key_us(item.arrival_us, prediction))
        return self._start(now_us)

    def cancel(self, item: QueuedRequest, now_us: int) -> list[QueuedRequest]:
        """The client has gone. Waiting or running, the request is finished; harmless when it already was."""
        if item.state is State.WAITING:
            self._waiting.remove(item, State.FINISHED)
            return []
        return self.finish(item, now_us)

    def finish(self, item: QueuedRequest, now_us: int) -> list[QueuedRequest]:
        """A running request has ended, in whatever way; its place is free."""
        if item.state is not State.RUNNING or item.replica is None:
            return []
        item.state = State.FINISHED
        self._replicas[item.replica].running -= 1
        return self._start(now_us)

    def switch_policy(self, policy: Policy, now_us: int) -> list[QueuedRequest]:
        """Use another policy from now on; whoever waits is keyed anew, so all keys stay comparable."""
        self._policy = policy
        for item in self._waiting.in_key_order():
            self._waiting.rekey(item, policy.key_us(item.arrival_us, item.prediction))
        return self._start(now_us)

    def _start(self, now_us: int) -> list[QueuedRequest]:
        started: list[QueuedRequest] = []
        while len(self._waiting) and (replica := self._least_busy()) is not None:
            item = self._next()
            self._waiting.remove(item, State.RUNNING)
            item.replica = replica.name
            item.dispatched_us = now_us
            replica.running += 1
            started.append(item)
        return started

    def _least_busy(self) -> Replica | None:
        with_room = [replica for replica in self._replicas.values() if replica.has_room]
        return min(with_room, key=lambda replica: replica.running, default=None)

    def _next(self) -> QueuedRequest:
        self._lane_credit = min(1.0, self._lane_credit + self._lane_share)
        if self._lane_credit >= 1.0:
            self._lane_credit -= 1.0
            item = self._waiting.oldest()
        else:
            item = self._waiting.first()
        assert item is not None, "called only while somebody waits"
        return item
