"""All policies on one crowd of requests: their figures, their share of the oracle's gain, and the verdict."""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from training.replay.measures import Figures, best_gain_within
from training.replay.scene import ORACLE, Knobs, Scene
from training.replay.verdict import headroom, verdict

Advance = Callable[[str], None]

# Values of D at which the oracle is played too, as multiples of this scene's: for its best at an equal p99.
_LADDER: Final = (1 / 16, 1 / 4, 1 / 2, 2.0, 4.0)
# Which policy the verdict speaks of: the default one where it is among those asked for.
_OURS: Final = ("quantile", "work", "boost", "sjf", "hrrn")
# A gain that is less than this share of FCFS's mean TTFT is none that shares of could be told.
_NO_GAIN: Final = 0.01


class Arm(msgspec.Struct, frozen=True):
    """A policy's figures. `of_oracle`: its gain over that of the same policy and knobs with true lengths.

    `of_oracle_at_p99`: its gain over the most that `oracle-quantile` with any D, or `oracle-sjf`, gains with
    no worse a p99 TTFT. None where the oracle gains nothing.
    """

    figures: Figures
    of_oracle: float | None
    of_oracle_at_p99: float | None


class Outlook(msgspec.Struct, frozen=True):
    """What one load holds. `load` is a fraction of `capacity_per_s`; `headroom` the mean TTFT of FCFS over
    that of `oracle-sjf`; `max_overtake_s` is D."""

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
    """How the arrivals of a scene were made."""

    arrivals: str
    load: float
    capacity_per_s: float
    peak_load: float


def look(scene: Scene, setting: Setting, policies: Sequence[str], knobs: Knobs, advance: Advance) -> Outlook:
    """Play every policy, and FCFS and the oracles in any case."""
    played: dict[str, Figures] = {}

    def play(name: str) -> Figures:
        if name not in played:
            advance(name)
            played[name] = scene.figures(name, knobs)
        return played[name]

    fcfs, best = play("fcfs"), play(ORACLE + "sjf")
    ladder = [fcfs, best, play(ORACLE + "quantile"), *_ladder(scene, knobs, advance)]
    arms = tuple(_arm(play(name), play(_with_truth(name)), fcfs, ladder) for name in policies)
    ours = next((play(name) for name in _OURS if name in policies), None)
    return Outlook(
        arrivals=setting.arrivals,
        load=setting.load,
        capacity_per_s=setting.capacity_per_s,
        peak_load=setting.peak_load,
        max_overtake_s=knobs.max_overtake_s,
        lane_share=knobs.lane_share,
        headroom=headroom(fcfs, best),
        arms=arms,
        verdict=verdict(fcfs, best, ours, knobs.max_overtake_s),
    )


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
    names = {"fcfs", ORACLE + "sjf", ORACLE + "quantile", *policies, *map(_with_truth, policies)}
    return len(names) + len(_LADDER)


def _ladder(scene: Scene, knobs: Knobs, advance: Advance) -> list[Figures]:
    found = []
    for multiple in _LADDER:
        advance("the oracle's frontier")
        other = Knobs(multiple * knobs.max_overtake_s, knobs.lane_share)
        found.append(scene.figures(ORACLE + "quantile", other))
    return found


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
