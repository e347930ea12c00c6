"""`--tune`: the pairs of D and lane share that keep the operator's limits, and the best of them."""

from collections.abc import Sequence
from typing import Final

import msgspec

from training.replay.measures import Figures
from training.replay.outlook import Advance, Setting
from training.replay.predictions import Ranked
from training.replay.scene import ORACLE, Knobs, Scene
from training.replay.verdict import headroom, verdict

# Around DESIGN's starting point, in multiples of it; beyond 4 little is left to gain.
_MULTIPLES: Final = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0)
_LANES: Final = (0.0, 0.25, 0.5)
# Of points that gain about alike the gentlest is taken: the smallest D, the widest lane.
_ABOUT_ALIKE: Final = 0.02


class Limits(msgspec.Struct, frozen=True):
    """What the operator allows. Any request's first token may come `extra_delay_s` later than under FCFS; p99
    E2E of the longest quarter and mean TTFT under reversed predictions are limited as multiples of FCFS's."""

    extra_delay_s: float
    longest_ratio: float = 1.3
    reversed_ratio: float = 1.5


class Point(msgspec.Struct, frozen=True):
    """One pair of knobs; `fails` names the limit that it breaks, empty where it keeps all."""

    knobs: Knobs
    figures: Figures
    longest_ratio: float
    reversed_ratio: float
    fails: str


class Tuning(msgspec.Struct, frozen=True):
    """The frontier, and the `choice`: D = 0, which is FCFS, where no pair keeps the limits and gains."""

    arrivals: str
    load: float
    predictions: str
    tau_b: float
    limits: Limits
    start_overtake_s: float
    choice: Knobs
    headroom: float
    gets: float
    frontier: tuple[Point, ...]
    verdict: str


def runs_to_tune() -> int:
    """How many runs `tune` will make."""
    return 2 * len(_MULTIPLES) * len(_LANES) + 1


def tune(
    scene: Scene,
    reversed_ranked: Ranked,
    setting: Setting,
    *,
    start_s: float,
    limits: Limits,
    advance: Advance,
) -> Tuning:
    """Play the grid around `start_s` and choose. Two runs per point: as predicted, and reversed."""
    points = []
    for knobs in _grid(start_s):
        label = f"D {knobs.max_overtake_s:.3g} s, lane {knobs.lane_share:g}"
        advance(label)
        figures = scene.figures("quantile", knobs)
        advance(f"{label}, reversed")
        points.append(
            _point(
                scene.fcfs_figures, figures, scene.figures("quantile", knobs, reversed_ranked), knobs, limits
            )
        )
    advance("oracle-sjf")
    best = scene.figures(ORACLE + "sjf", Knobs(start_s))
    chosen = choose(points)
    figures = scene.fcfs_figures if chosen is None else chosen.figures
    knobs = Knobs(0.0) if chosen is None else chosen.knobs
    return Tuning(
        arrivals=setting.arrivals,
        load=setting.load,
        predictions=scene.ranked.by,
        tau_b=scene.ranked.tau_b,
        limits=limits,
        start_overtake_s=start_s,
        choice=knobs,
        headroom=headroom(scene.fcfs_figures, best),
        gets=headroom(scene.fcfs_figures, figures),
        frontier=tuple(points),
        verdict=verdict(scene.fcfs_figures, best, figures, knobs.max_overtake_s),
    )


def choose(points: Sequence[Point]) -> Point | None:
    """Among those that keep all limits and gain: near the best gain, the smallest D with the widest lane."""
    allowed = [point for point in points if not point.fails and point.figures.gain_s > 0]
    if not allowed:
        return None
    most = max(point.figures.gain_s for point in allowed)
    near = [point for point in allowed if point.figures.gain_s >= (1 - _ABOUT_ALIKE) * most]
    return min(near, key=lambda point: (point.knobs.max_overtake_s, -point.knobs.lane_share))


def _grid(start_s: float) -> list[Knobs]:
    return [Knobs(multiple * start_s, lane) for multiple in _MULTIPLES for lane in _LANES]


def _point(fcfs: Figures, figures: Figures, reverse: Figures, knobs: Knobs, limits: Limits) -> Point:
    longest = figures.longest_quartile_e2e_p99_s / fcfs.longest_quartile_e2e_p99_s
    reverse_ratio = reverse.ttft_s.mean / max(fcfs.ttft_s.mean, 1e-9)
    broken = (
        ("extra delay", figures.extra_delay_s > limits.extra_delay_s),
        ("longest quarter", longest > limits.longest_ratio),
        ("reversed", reverse_ratio > limits.reversed_ratio),
    )
    return Point(knobs, figures, longest, reverse_ratio, ", ".join(name for name, breaks in broken if breaks))
