"""The real scheduler and window controller in front of the engine model, in virtual time."""

import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from predictor.prediction import Prediction
from proxy.scheduling.classes import ServiceClass
from proxy.scheduling.kv import KvBudget
from proxy.scheduling.policy import Quantile
from proxy.scheduling.queued import Changes, QueuedRequest
from proxy.scheduling.scheduler import Scheduler
from proxy.scheduling.window import WindowController
from training.engine import EngineModel, Event, EventKind, SchedulingPolicy, Sequence
from training.profiles import EngineProfile, profile_named


def chat(rng: random.Random) -> int:
    """Output tokens of a chat answer: log-normal, mean 100."""
    return max(1, min(2000, int(rng.lognormvariate(math.log(100) - 0.5, 1.0))))


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What is simulated. `streams`: share of streamed requests. `backlog`: requests kept waiting per proxy;
    `arrivals_per_s` instead: an open load. Gauges are `gauge_age_s` old when they arrive, once a second."""

    slots: int
    streams: float = 1.0
    queue_times: bool = True
    gauges: bool = True
    gauge_age_s: float = 3.0
    profile: str = "h100-8b"
    changes: dict[str, Any] = {}
    policy: SchedulingPolicy = SchedulingPolicy.PRIORITY
    output: Callable[[random.Random], int] = chat
    prompt_tokens: tuple[int, int] = (50, 400)
    backlog: int = 64
    arrivals_per_s: float = 0.0
    hop_s: float = 0.004
    seed: int = 1

    def engine_profile(self) -> EngineProfile:
        """The profile with this many slots."""
        base = profile_named(self.profile)
        return msgspec.structs.replace(base, max_num_seqs=self.slots, **self.changes)


class Tally(msgspec.Struct):
    """Integrals over virtual time, and counts, since the last `Simulation.start_tally`."""

    since_s: float = 0.0
    held_s: float = 0.0
    idle_slot_s: float = 0.0
    queued_s: float = 0.0
    answers: int = 0


class Proxy:
    """One proxy: its scheduler with one replica, its controller (None: no window), its requests."""

    def __init__(self, controller: WindowController | None, budget: KvBudget | None) -> None:
        self.controller = controller
        self.budget = budget
        self.scheduler = Scheduler([ServiceClass(name="standard", policy=Quantile(120_000_000))])
        self.scheduler.add_replica("engine", controller.window if controller else None, 0)
        if budget is not None:
            self.scheduler.replica("engine").kv = budget
        self.windows: list[tuple[float, int]] = []

    @property
    def unsatisfied(self) -> int:
        """What a closed loop keeps constant: requests held, or, with no window, requests anywhere."""
        return self.scheduler.waiting if self.controller else self.scheduler.running


class Simulation:
    """Proxies in front of one engine."""

    def __init__(
        self,
        setup: Setup,
        controllers: list[WindowController] | None = None,
        budget: KvBudget | None = None,
    ) -> None:
        """No controllers: everything is sent at once, as if there were no proxy."""
        self.setup = setup
        self.rng = random.Random(setup.seed)
        self.engine = EngineModel(setup.engine_profile(), setup.policy)
        self.proxies = [Proxy(controller, budget) for controller in controllers or [None]]
        self.now_s = 0.0
        self.tally = Tally()
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._requests: dict[int, tuple[Proxy, QueuedRequest, int, bool]] = {}
        self._polled: deque[tuple[float, int, int, float]] = deque()
        self._work_before = self._preempted_before = 0.0
        if setup.gauges:
            self._at(0.0, self._poll)
        if setup.arrivals_per_s:
            self._at(0.0, self._arrive)
        self._refill()

    @property
    def now_us(self) -> int:
        """Virtual microseconds."""
        return int(self.now_s * 1e6)

    @property
    def slots(self) -> int:
        """The engine's slots now."""
        return self.engine.profile.max_num_seqs

    @property
    def idle_share(self) -> float:
        """Slot-seconds idle while a proxy held requests, over all slot-seconds in which one did."""
        return self.tally.idle_slot_s / max(1e-9, self.tally.held_s * self.slots)

    @property
    def engine_queue(self) -> float:
        """Mean number of requests in the engine's own queue."""
        return self.tally.queued_s / max(1e-9, self.now_s - self.tally.since_s)

    @property
    def work_rate(self) -> float:
        """Useful engine work per second: prompts at their prefill cost, outputs at a full batch's cost."""
        return (self._work() - self._work_before) / max(1e-9, self.now_s - self.tally.since_s)

    @property
    def preemptions(self) -> float:
        """Per answer."""
        return (self.engine.counters.preemptions - self._preempted_before) / max(1, self.tally.answers)

    def start_tally(self) -> None:
        """Count from now on."""
        self.tally = Tally(since_s=self.now_s)
        self._work_before = self._work()
        self._preempted_before = self.engine.counters.preemptions

    def set_slots(self, slots: int) -> None:
        """The engine's capacity changes while it runs."""
        self.engine.profile = msgspec.structs.replace(self.engine.profile, max_num_seqs=slots)

    def restart(self, slots: int) -> None:
        """The engine dies with all that it had, and another one is there at once."""
        self.engine = EngineModel(msgspec.structs.replace(self.engine.profile, max_num_seqs=slots))
        for proxy in self.proxies:
            if proxy.controller:
                proxy.controller.reset()
        for seq in [seq for seq, request in self._requests.items() if request[1].replica]:
            self._end(seq, None, answered=False)
        self._polled.clear()

    def run(self, *, seconds: float = math.inf, answers: int = 1 << 60) -> None:
        """Go on for so long, or for so many answers."""
        until_s, enough = self.now_s + seconds, self.tally.answers + answers
        while self.tally.answers < enough:
            engine_s = self.engine.next_event_s()
            next_s = self._agenda[0][0] if self._agenda else math.inf
            if min(next_s, engine_s or math.inf) > until_s:
                self._pass_time(until_s)
                return
            if engine_s is not None and engine_s < next_s:
                self._pass_time(engine_s)
                for event in self.engine.advance(engine_s):
                    self._at(event.at_s + self.setup.hop_s, lambda event=event: self._observe(event))
            else:
                self._pass_time(next_s)
                heapq.heappop(self._agenda)[2]()

    def _work(self) -> float:
        counters, profile = self.engine.counters, self.engine.profile
        prefill = (counters.prompt_tokens - counters.prompt_tokens_cached) * profile.prefill_token_s
        return prefill + counters.generation_tokens * profile.base_s / profile.max_num_seqs

    def _at(self, at_s: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._agenda, (at_s, self._count, action))

    def _pass_time(self, to_s: float) -> None:
        elapsed_s = max(0.0, to_s - self.now_s)
        held = sum(proxy.scheduler.waiting for proxy in self.proxies)
        if held:
            self.tally.held_s += elapsed_s
            self.tally.idle_slot_s += elapsed_s * min(held, max(0, self.slots - self.engine.num_running))
        self.tally.queued_s += elapsed_s * self.engine.num_waiting
        self.now_s = max(self.now_s, to_s)

    def _refill(self) -> None:
        if self.setup.arrivals_per_s:
            return
        for proxy in self.proxies:
            wanted = self.setup.backlog + (0 if proxy.controller else self.slots)
            while proxy.unsatisfied < wanted:
                self._submit(proxy)

    def _arrive(self) -> None:
        self._submit(self.proxies[0])
        self._at(self.now_s + self.rng.expovariate(self.setup.arrivals_per_s), self._arrive)

    def _submit(self, proxy: Proxy) -> None:
        self._count += 1
        output = self.setup.output(self.rng)
        # A good ranker, not an oracle: the logarithm of the length is known within a factor of about 1.5.
        guess = output * math.exp(self.rng.gauss(0, 0.4))
        quantile = min(1.0, max(0.0, 0.5 + 0.2 * math.log(guess / 60)))
        item = QueuedRequest(
            self._count,
            str(self._count),
            self.now_us,
            Prediction(quantile, guess, guess, guess),
            prompt_tokens=self.rng.randint(*self.setup.prompt_tokens),
        )
        self._requests[item.seq] = (proxy, item, output, self.rng.random() < self.setup.streams)
        self._follow(proxy, lambda: proxy.scheduler.submit(item, self.now_us))

    def _follow(self, proxy: Proxy, change: Callable[[], Changes] | None = None) -> None:
        """Make a change, send what may be sent, and set the window as long as that lets more go."""
        if change is not None:
            self._send(proxy, change())
        if proxy.controller is None:
            return
        while True:
            window = proxy.controller.window
            if not proxy.windows or proxy.windows[-1][1] != window:
                proxy.windows.append((self.now_s, window))
            if not self._set_window(proxy, window):
                return

    def _set_window(self, proxy: Proxy, window: int) -> bool:
        changes = proxy.scheduler.set_window("engine", window, self.now_us)
        self._send(proxy, changes)
        return bool(changes.started)

    def _send(self, proxy: Proxy, changes: Changes) -> None:
        for item in changes.started:
            if proxy.controller:
                proxy.controller.sent(item.seq, self.now_us, streamed=self._requests[item.seq][3])
            self._at(self.now_s + self.setup.hop_s, lambda item=item: self._reach_engine(item))

    def _reach_engine(self, item: QueuedRequest) -> None:
        if item.seq in self._requests:
            output = self._requests[item.seq][2]
            sequence = Sequence(item.seq, item.prompt_tokens, output, priority=item.key_us)
            self.engine.submit(sequence, self.now_s)

    def _observe(self, event: Event) -> None:
        if event.sequence_id not in self._requests:
            return
        if event.kind is EventKind.FINISHED:
            self.tally.answers += 1
            self._end(event.sequence_id, int(event.queue_s * 1e6) if self.setup.queue_times else None)
            self._refill()
        elif event.kind is EventKind.FIRST_TOKEN:
            proxy, _, _, streamed = self._requests[event.sequence_id]
            if proxy.controller and streamed:
                proxy.controller.first_byte(event.sequence_id, self.now_us)
                self._follow(proxy)

    def _end(self, seq: int, queue_us: int | None, *, answered: bool = True) -> None:
        proxy, item, _, _ = self._requests.pop(seq)
        if proxy.controller:
            proxy.controller.ended(seq, self.now_us, queue_us, answered=answered)
        self._follow(proxy, lambda: proxy.scheduler.finish(item, self.now_us))

    def _poll(self) -> None:
        engine = self.engine
        self._polled.append((self.now_s, engine.num_running, engine.num_waiting, engine.kv_usage))
        while len(self._polled) > 1 and self._polled[1][0] <= self.now_s - self.setup.gauge_age_s:
            self._polled.popleft()
        at_s, running, waiting, kv_usage = self._polled[0]
        for proxy in self.proxies if at_s <= self.now_s - self.setup.gauge_age_s else ():
            if proxy.budget:
                proxy.budget.observe(kv_usage)
            if proxy.controller:
                proxy.controller.gauges(running, waiting, kv_usage, self.now_us)
                self._follow(proxy)
        self._at(self.now_s + 1.0, self._poll)
