"""All policies on one crowd of requests: their figures, their share of the oracle's gain, and the verdict."""

import itertools
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from training.replay.measures import Figures, best_gain_within
from training.replay.scene import ORACLE, Knobs, Scene
from training.replay.verdict import SHORTEST_FIRST, headroom, verdict

Advance = Callable[[str], None]

# Values of D at which the oracle is played too, as multiples of this scene's: for its best at an equal p99.
_LADDER: Final = (1 / 16, 1 / 4, 1 / 2, 2.0, 4.0)
# Policies that the verdict may speak of.
_OURS: Final = ("quantile", "work", "boost", "sjf", "work-sjf", "hrrn")
# Bounded policies whose frontier with true lengths the shares at an equal p99 are measured against.
_TRUTHS: Final = (ORACLE + "quantile", ORACLE + "work")
# A gain that is less than this share of FCFS's mean TTFT is none that shares of could be told.
_NO_GAIN: Final = 0.01


class Arm(msgspec.Struct, frozen=True):
    """A policy's figures. `of_oracle`: its gain over that of the same policy and knobs with true lengths.

    `of_oracle_at_p99`: its gain over the most that any oracle below, with any D, gains with no worse a p99 TTFT.
    None where the oracle gains nothing.
    """

    figures: Figures
    of_oracle: float | None
    of_oracle_at_p99: float | None


class Outlook(msgspec.Struct, frozen=True):
    """What one load holds. `load` is a fraction of `capacity_per_s`; `headroom` the mean TTFT of FCFS over that
    of shortest first by true lengths or by true work, whichever is better; `max_overtake_s` is D."""

    arrivals: str
    load: float
    capacity_per_s: float
    peak_load: float
    max_overtake_s: float
    lane_share: float
    headroom: float
    arms: tuple[Arm, ...]
    verdict: str


class Setting(msgspec.Struct, frozen=True):
    """How the arrivals of a scene were made; `logged`: what the log that they come from says of its own queue."""

    arrivals: str
    load: float
    capacity_per_s: float
    peak_load: float
    logged: str = ""


def look(scene: Scene, setting: Setting, policies: Sequence[str], knobs: Knobs, advance: Advance) -> Outlook:
    """Play every policy, and FCFS and the oracles in any case."""
    played: dict[str, Figures] = {}

    def play(name: str) -> Figures:
        if name not in played:
            advance(name)
            played[name] = scene.figures(name, knobs)
        return played[name]

    fcfs, shortest = play("fcfs"), [play(name) for name in SHORTEST_FIRST]
    best = min(shortest, key=lambda one: one.ttft_s.mean)
    ladder = [fcfs, *shortest, *map(play, _TRUTHS), *_ladder(scene, knobs, advance)]
    arms = tuple(_arm(play(name), play(_with_truth(name)), fcfs, ladder) for name in policies)
    ours = _ours([play(name) for name in _OURS if name in policies])
    return Outlook(
        arrivals=setting.arrivals,
        load=setting.load,
        capacity_per_s=setting.capacity_per_s,
        peak_load=setting.peak_load,
        max_overtake_s=knobs.max_overtake_s,
        lane_share=knobs.lane_share,
        headroom=headroom(fcfs, best),
        arms=arms,
        verdict=f"{setting_of(scene, setting)} {verdict(fcfs, best, ours, knobs.max_overtake_s)}{setting.logged}",
    )


def setting_of(scene: Scene, setting: Setting) -> str:
    """What a verdict holds for: the engines and the load, which need not be the operator's."""
    return f"{scene.pool.replicas} x {scene.pool.profile.name}, {setting.arrivals}, load {setting.load:.3g}."


def default_overtake_s(fcfs: Figures, peak_load: float, extra_delay_s: float | None) -> float:
    """D: twice the p99 wait under FCFS, or what the allowed extra delay leaves at the peak load, if less."""
    twice = 2 * fcfs.wait_s.p99
    return twice if extra_delay_s is None else min(twice, extra_delay_s / max(1.0, peak_load))


def share_of(gain_s: float, possible_s: float | None, fcfs: Figures) -> float | None:
    """A gain as a share of a possible one; None where that is (next to) nothing."""
    if possible_s is None or possible_s < _NO_GAIN * fcfs.ttft_s.mean:
        return None
    return gain_s / possible_s


def runs_of(policies: Sequence[str]) -> int:
    """How many runs `look` will make."""
    names = {"fcfs", *SHORTEST_FIRST, *_TRUTHS, *policies, *map(_with_truth, policies)}
    return len(names) + len(_LADDER) * len(_TRUTHS)


def _ladder(scene: Scene, knobs: Knobs, advance: Advance) -> list[Figures]:
    found = []
    for name, multiple in itertools.product(_TRUTHS, _LADDER):
        advance("the oracle's frontier")
        other = Knobs(multiple * knobs.max_overtake_s, knobs.lane_share)
        found.append(scene.figures(name, other))
    return found


def _ours(played: Sequence[Figures]) -> Figures | None:
    """Of the bounded learned policies the one that gains most; any other only where none of them was asked for."""
    bounded = [one for one in played if one.policy in ("quantile", "work")]
    return max(bounded, key=lambda one: one.gain_s) if bounded else next(iter(played), None)


def _with_truth(name: str) -> str:
    return name if name == "fcfs" or name.startswith(ORACLE) else ORACLE + name


def _arm(figures: Figures, truth: Figures, fcfs: Figures, ladder: Sequence[Figures]) -> Arm:
    if figures.policy == "fcfs":
        return Arm(figures, None, None)
    possible_s = best_gain_within(ladder, figures.ttft_s.p99)
    return Arm(
        figures=figures,
        of_oracle=share_of(figures.gain_s, truth.gain_s, fcfs),
        of_oracle_at_p99=share_of(figures.gain_s, possible_s, fcfs),
    )
