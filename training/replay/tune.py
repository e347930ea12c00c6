"""`--tune`: the policies, D and lane shares that keep the operator's limits, and the best of them."""

import itertools
from collections.abc import Sequence
from typing import Final

import msgspec

from predictor.order import Choice
from training.replay.measures import Figures
from training.replay.outlook import Advance, Setting, setting_of
from training.replay.predictions import Ranked
from training.replay.scene import Knobs, Scene
from training.replay.verdict import SHORTEST_FIRST, headroom, verdict

# Around DESIGN's starting point, in multiples of it; beyond 4 little is left to gain.
_MULTIPLES: Final = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0)
_LANES: Final = (0.0, 0.25, 0.5)
_POLICIES: Final[tuple[Choice, ...]] = ("quantile", "work")
# Reversed predictions meet the guardrail, as they would while serving: without it the limit on them would rule out the
# very D that true ones gain most with.
_GUARDED: Final = {"quantile": "guarded", "work": "work-guarded"}
# Of points that gain about alike the gentlest is taken: the smallest D, the widest lane.
_ABOUT_ALIKE: Final = 0.02


class Limits(msgspec.Struct, frozen=True):
    """What the operator allows. Any request's first token may come `extra_delay_s` later than under FCFS; p99 E2E of
    the longest quarter, and mean TTFT under reversed predictions and the guardrail, are limited as multiples of FCFS's.
    """

    extra_delay_s: float
    longest_ratio: float = 1.3
    reversed_ratio: float = 1.5


class Point(msgspec.Struct, frozen=True):
    """A policy and its knobs; `fails` names the limit that they break, empty where they keep all."""

    policy: Choice
    knobs: Knobs
    figures: Figures
    longest_ratio: float
    reversed_ratio: float
    fails: str


class Tuning(msgspec.Struct, frozen=True):
    """The frontier, and the choice: `fcfs` with D = 0 where no point keeps the limits and gains.

    `as_recorded`: the verdict on the choice at the times at which the traffic really came, where they are known.
    """

    arrivals: str
    load: float
    predictions: str
    tau_b: float
    limits: Limits
    start_overtake_s: float
    policy: Choice
    choice: Knobs
    headroom: float
    gets: float
    frontier: tuple[Point, ...]
    verdict: str
    as_recorded: str | None = None


class Grid(msgspec.Struct, frozen=True):
    """What is tried: D in multiples of the starting point, lane shares, policies."""

    multiples: tuple[float, ...] = _MULTIPLES
    lanes: tuple[float, ...] = _LANES
    policies: tuple[Choice, ...] = _POLICIES

    def points(self, start_s: float) -> list[tuple[Choice, Knobs]]:
        """Every combination."""
        tried = itertools.product(self.policies, self.multiples, self.lanes)
        return [(policy, Knobs(multiple * start_s, lane)) for policy, multiple, lane in tried]

    def runs(self) -> int:
        """How many runs `tune` will make of it."""
        return 2 * len(self.points(1.0)) + len(SHORTEST_FIRST)


WHOLE_GRID: Final = Grid()


def tune(
    scene: Scene,
    reversed_ranked: Ranked,
    setting: Setting,
    *,
    start_s: float,
    limits: Limits,
    advance: Advance,
    grid: Grid = WHOLE_GRID,
) -> Tuning:
    """Play the grid around `start_s` and choose. Two runs per point: as predicted, and reversed."""
    points = []
    for policy, knobs in grid.points(start_s):
        label = f"{policy}, D {knobs.max_overtake_s:.3g} s, lane {knobs.lane_share:g}"
        advance(label)
        figures = scene.figures(policy, knobs)
        advance(f"{label}, reversed")
        reverse = scene.figures(_GUARDED[policy], knobs, reversed_ranked)
        ratios = _ratios(figures, reverse, scene.fcfs_figures)
        points.append(Point(policy, knobs, figures, *ratios, _fails(figures, ratios, limits)))
    best = _best(scene, advance)
    chosen = choose(points)
    figures = scene.fcfs_figures if chosen is None else chosen.figures
    knobs = Knobs(0.0) if chosen is None else chosen.knobs
    return Tuning(
        policy="fcfs" if chosen is None else chosen.policy,
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
        verdict=f"{setting_of(scene, setting)} "
        f"{verdict(scene.fcfs_figures, best, figures, knobs.max_overtake_s)}{setting.logged}",
    )


def with_recorded(tuning: Tuning, scene: Scene, setting: Setting) -> Tuning:
    """The tuning with a verdict on `scene`, the same requests at their own times."""
    best = _best(scene, lambda _: None)
    ours = scene.figures(tuning.policy, tuning.choice)
    said = verdict(scene.fcfs_figures, best, ours, tuning.choice.max_overtake_s)
    return msgspec.structs.replace(tuning, as_recorded=f"As recorded: {setting_of(scene, setting)} {said}")


def _best(scene: Scene, advance: Advance) -> Figures:
    """What no order can beat."""
    played = []
    for name in SHORTEST_FIRST:
        advance(name)
        played.append(scene.figures(name, Knobs(0.0)))
    return min(played, key=lambda one: one.ttft_s.mean)


def choose(points: Sequence[Point]) -> Point | None:
    """Among those that keep all limits and gain: near the best gain, the smallest D with the widest lane."""
    allowed = [point for point in points if not point.fails and point.figures.gain_s > 0]
    if not allowed:
        return None
    most = max(point.figures.gain_s for point in allowed)
    near = [point for point in allowed if point.figures.gain_s >= (1 - _ABOUT_ALIKE) * most]
    return min(near, key=lambda one: (one.knobs.max_overtake_s, -one.knobs.lane_share, one.policy))


def _ratios(figures: Figures, reverse: Figures, fcfs: Figures) -> tuple[float, float]:
    """What the longest quarter pays, and what reversed predictions cost, as multiples of FCFS."""
    longest = figures.longest_quartile_e2e_p99_s / fcfs.longest_quartile_e2e_p99_s
    return longest, reverse.ttft_s.mean / max(fcfs.ttft_s.mean, 1e-9)


def _fails(figures: Figures, ratios: tuple[float, float], limits: Limits) -> str:
    broken = (
        ("extra delay", figures.extra_delay_s > limits.extra_delay_s),
        ("longest quarter", ratios[0] > limits.longest_ratio),
        ("reversed", ratios[1] > limits.reversed_ratio),
    )
    return ", ".join(name for name, breaks in broken if breaks)
