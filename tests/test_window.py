"""The window before an engine: it stays busy, what waits waits in the proxy, and changes are followed."""

import functools
import random
from typing import Any

import pytest
from window_simulation import Setup, Simulation

from proxy.scheduling.level import Limits
from proxy.scheduling.window import WindowController
from training.engine import SchedulingPolicy

# What a proxy can know of the engine's queue.
TRAFFIC: dict[str, dict[str, Any]] = {
    "streams": {"gauges": False, "queue_times": False},
    "mixed": {"streams": 0.5, "queue_times": False},
    "unary, queue times": {"streams": 0.0},
    "unary, gauges only": {"streams": 0.0, "queue_times": False},
}
SLOTS = [4, 8, 32, 256]
# By then every kind of traffic has found its window, gauges three seconds old included.
SETTLED_S = 40.0


def up_to_600(rng: random.Random) -> int:
    """Output tokens, so long that 1,000 blocks last for half of 64 slots."""
    return rng.randint(20, 600)


def simulated(controller: WindowController | None = None, **setup: Any) -> Simulation:
    """One proxy with a controller of its own in front of one engine."""
    return Simulation(Setup(**setup), [controller or WindowController()])


def controller_of(simulation: Simulation) -> WindowController:
    """The first proxy's controller."""
    controller = simulation.proxies[0].controller
    assert controller is not None
    return controller


def measured(simulation: Simulation, *, after_s: float = SETTLED_S, seconds: float = 30.0) -> Simulation:
    """Run, and tally only what comes after `after_s`."""
    simulation.run(seconds=after_s)
    simulation.start_tally()
    simulation.run(seconds=seconds)
    return simulation


@pytest.mark.parametrize("slots", SLOTS)
@pytest.mark.parametrize("traffic", TRAFFIC)
def test_the_engine_is_busy_and_the_queue_is_in_the_proxy(slots: int, traffic: str) -> None:
    """Less than 2% of slot time is idle while somebody waits, and the engine queues about the slack."""
    simulation = measured(simulated(slots=slots, **TRAFFIC[traffic]))
    assert simulation.tally.held_s == pytest.approx(30.0)
    assert simulation.idle_share < 0.02
    assert simulation.engine_queue < 2 + slots / 32
    assert slots <= controller_of(simulation).window <= slots + 4 + slots / 8


@pytest.mark.parametrize("traffic", ["streams", "unary, gauges only"])
def test_answers_that_end_together_leave_no_slot_empty(traffic: str) -> None:
    """Equally long answers on an engine with slow steps: as many wait there as end in one step."""
    alike = {"output": lambda _: 64, "prompt_tokens": (50, 60), "changes": {"base_s": 0.06}}
    simulation = measured(simulated(slots=16, **alike, **TRAFFIC[traffic]), after_s=10.0, seconds=40.0)
    assert simulation.idle_share < 0.003


@pytest.mark.parametrize("slots", SLOTS)
def test_streams_find_the_window_within_a_few_answers(slots: int) -> None:
    """With streams the window is within its slack of the truth by the time that four per slot are answered."""
    simulation = simulated(slots=slots, gauges=False)
    simulation.run(answers=4 * slots)
    assert slots <= controller_of(simulation).window <= slots + 8


def test_it_opens_by_doubling_and_never_floods() -> None:
    """From 8 to 256 in about a second of virtual time, and never more than twice what has begun."""
    simulation = simulated(slots=256, gauges=False)
    simulation.run(seconds=2.0)
    windows = [window for _, window in simulation.proxies[0].windows]
    assert (windows[0], max(windows) <= 2 * 256, windows[-1] >= 256) == (8, True, True)


LONG_PROMPTS: dict[str, Any] = {"prompt_tokens": (2_000, 6_000), "changes": {"num_blocks": 100_000}}
# Engines bound by something else than their slots too, and the least share of direct access's work to reach.
LOADS: dict[str, tuple[float, dict[str, Any]]] = {
    "long prompts": (0.98, {"slots": 64, **LONG_PROMPTS}),
    # Fewer sequences than slots run at once here, so that iterations cannot be quite as full.
    "prefill-bound": (0.95, {"slots": 256, **LONG_PROMPTS}),
    "short answers": (0.98, {"slots": 64, "output": lambda rng: rng.randint(1, 20)}),
    "answers of one length": (0.98, {"slots": 256, "output": lambda _: 50}),
    "cpu": (0.98, {"slots": 8, "profile": "cpu-smollm2"}),
    # The KV cache holds about half of what the slots would need.
    "few blocks": (0.97, {"slots": 64, "changes": {"num_blocks": 1_000}, "output": up_to_600}),
}


@functools.cache
def direct(load: str) -> Simulation:
    """Everything is sent to the engine at once."""
    return measured(Simulation(Setup(**LOADS[load][1])))


@pytest.mark.parametrize("traffic", TRAFFIC)
@pytest.mark.parametrize("load", LOADS)
def test_no_throughput_is_lost(traffic: str, load: str) -> None:
    """The engine does as much work as when it is sent everything at once, whatever bounds it."""
    least, setup = LOADS[load]
    ours = measured(simulated(**{**setup, **TRAFFIC[traffic]}))
    assert ours.work_rate > least * direct(load).work_rate
    assert ours.preemptions <= 1.05 * direct(load).preemptions


@pytest.mark.parametrize("traffic", TRAFFIC)
def test_capacity_is_followed_up_and_down(traffic: str) -> None:
    """An engine that goes from 4 to 64 slots and back finds the window within 40 s each time."""
    simulation = simulated(slots=4, **TRAFFIC[traffic])
    simulation.run(seconds=SETTLED_S)
    for slots in (64, 4):
        simulation.set_slots(slots)
        measured(simulation, seconds=20.0)
        assert simulation.idle_share < 0.02
        assert simulation.engine_queue < 2 + slots / 16
        assert slots <= controller_of(simulation).window <= slots + 4 + slots / 8


def test_a_settled_window_stays_put() -> None:
    """On a steady engine the window moves by no more than its slack does."""
    simulation = simulated(slots=32, gauges=False)
    simulation.run(seconds=10.0)
    simulation.proxies[0].windows.clear()
    simulation.run(seconds=60.0)
    assert {window for _, window in simulation.proxies[0].windows} <= set(range(33, 38))


def test_restart_begins_anew() -> None:
    """After the engine's restart with fewer slots the window starts small again and finds them."""
    simulation = simulated(slots=64, gauges=False)
    simulation.run(seconds=10.0)
    simulation.restart(slots=8)
    assert controller_of(simulation).window <= 16
    measured(simulation, after_s=10.0)
    assert simulation.idle_share < 0.02
    assert simulation.engine_queue < 3


def test_an_idle_hour_changes_nothing() -> None:
    """What was learned of the engine holds over a quiet time: the next crowd is sent at once."""
    simulation = simulated(slots=32, gauges=False)
    simulation.run(seconds=10.0)
    controller = controller_of(simulation)
    window = controller.window
    controller.sent(1_000_000, 3_600_000_000, streamed=True)
    controller.first_byte(1_000_000, 3_600_020_000)
    controller.ended(1_000_000, 3_600_900_000)
    assert abs(controller.window - window) <= 1


@pytest.mark.parametrize("load", [0.6, 0.9])
def test_nobody_waits_for_nothing(load: float) -> None:
    """Below capacity next to no slot is idle while somebody waits, whatever the window was opened to."""
    simulation = measured(simulated(slots=32, gauges=False, arrivals_per_s=30.0 * load))
    assert simulation.idle_share < 0.02
    assert simulation.engine_queue < 3


@pytest.mark.parametrize("traffic", TRAFFIC)
def test_two_proxies_share_an_engine(traffic: str) -> None:
    """Each counts what the other runs: no slot idles, and the engine's queue stays far below a second batch."""
    setup = Setup(slots=32, **TRAFFIC[traffic])
    simulation = Simulation(setup, [WindowController(), WindowController()])
    measured(simulation, after_s=90.0, seconds=60.0)
    assert simulation.idle_share < 0.02
    assert simulation.engine_queue < 16


def test_queue_times_alone_suffice_for_an_engine_in_order_of_arrival() -> None:
    """Without streams and without gauges the queue times in the answers find the window."""
    simulation = measured(simulated(slots=32, streams=0.0, gauges=False, policy=SchedulingPolicy.FCFS))
    assert simulation.idle_share < 0.02
    assert simulation.engine_queue < 12


def test_where_nothing_tells_it_opens() -> None:
    """Unary answers alone say nothing of a queue; then the engine is not starved on a guess."""
    simulation = measured(simulated(slots=256, streams=0.0, gauges=False, queue_times=False))
    assert simulation.idle_share < 0.02


def test_more_spare_means_more_in_the_engine() -> None:
    """The spare is the operator's choice between the engine's order and the proxy's."""
    few = measured(simulated(slots=16))
    many = measured(simulated(WindowController(Limits(spare=6)), slots=16))
    assert many.engine_queue > few.engine_queue + 3


def test_the_reason_says_what_is_known() -> None:
    """The status page reads why the window is what it is."""
    controller = WindowController()
    assert controller.reason == "opening, 0 seen running"
    simulated(controller, slots=8, gauges=False).run(seconds=10.0)
    assert f"{controller.window}: full at 8 by first bytes" in repr(controller)


def test_a_fixed_window_is_fixed() -> None:
    """A window that was set by hand never moves."""
    controller = WindowController(fixed=5)
    simulated(controller, slots=64).run(seconds=5.0)
    assert (controller.window, controller.reason) == (5, "fixed")
