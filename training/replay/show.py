"""Tables for a terminal."""

import sys
from collections.abc import Sequence
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from training.replay.outlook import Arm, Outlook
from training.replay.tune import Point, Tuning

_WIDTH: Final = 132
_FIVE: Final = ("mean", "p50", "p90", "p99", "max")
_TIMES: Final = ("policy", "TTFT mean", *_FIVE[1:], "E2E mean", *_FIVE[1:], "gain")
_COSTS: Final = (
    "policy",
    *("slowdown", "Q2", "Q3", "Q4"),
    *("ms/tok", "tok/s", "preempt", "recomp", "extra", "overtaken", "of oracle", "at p99"),
)


def console() -> Console:
    """Standard output, wide enough for the tables where it is a file or a pipe."""
    return Console() if sys.stdout.isatty() else Console(width=_WIDTH)


def show_outlook(to: Console, outlook: Outlook) -> None:
    """One load: a row per policy in two tables, then the verdict."""
    per_s = outlook.load * outlook.capacity_per_s
    title = f"{outlook.arrivals}, load {outlook.load:.3g}: {per_s:.2f} requests/s"
    to.print(_table(title, _TIMES, [_times(arm) for arm in outlook.arms]))
    to.print(_table("", _COSTS, [_costs(arm) for arm in outlook.arms]))
    lane = f", lane {outlook.lane_share:g}" if outlook.lane_share else ""
    to.print(
        f"Seconds. D = {outlook.max_overtake_s:.4g} s{lane}; headroom {outlook.headroom:.2f}x. slowdown: by "
        "quartile of true length, shortest first. extra: largest extra delay over FCFS. overtaken: longest "
        "overtaking. Share of the oracle's gain with the same knobs, and with any knobs at an equal p99 TTFT."
    )
    to.print(outlook.verdict + "\n", style="bold")


def show_tuning(to: Console, tuning: Tuning) -> None:
    """The frontier, the choice and the verdict."""
    table = Table(title=f"Frontier at {tuning.arrivals}, load {tuning.load:.3g}", title_justify="left")
    for name in (
        "policy",
        "D",
        "lane",
        "TTFT mean",
        "p99",
        "gain",
        "extra",
        "overtaken",
        "longest Q p99 E2E",
        "reversed",
        "",
    ):
        table.add_column(name, justify="right")
    for point in tuning.frontier:
        chosen = (point.policy, point.knobs) == (tuning.policy, tuning.choice)
        table.add_row(
            *_point(point), "<- chosen" if chosen else point.fails, style="bold" if chosen else None
        )
    to.print(table)
    to.print(
        "Seconds; longest Q p99 E2E: of the longest quarter, times FCFS's; reversed: mean TTFT under reversed "
        "predictions and the guardrail, times FCFS's."
    )
    to.print(tuning.verdict + "\n", style="bold")
    if tuning.as_recorded is not None:
        to.print(tuning.as_recorded + "\n", style="bold")


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title or None, title_justify="left")
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _times(arm: Arm) -> list[str]:
    one = arm.figures
    values = [*msgspec.structs.astuple(one.ttft_s), *msgspec.structs.astuple(one.e2e_s), one.gain_s]
    return [one.policy, *(_seconds(value) for value in values)]


def _costs(arm: Arm) -> list[str]:
    one = arm.figures
    return [
        one.policy,
        *(f"{value:.1f}" for value in one.slowdown),
        f"{1e3 * one.inter_token_s:.1f}",
        f"{one.tokens_per_s:.0f}",
        str(one.preemptions),
        str(one.recomputed_tokens),
        _seconds(one.extra_delay_s),
        _seconds(one.overtaken_s),
        _share(arm.of_oracle),
        _share(arm.of_oracle_at_p99),
    ]


def _point(point: Point) -> list[str]:
    one = point.figures
    values = (one.ttft_s.mean, one.ttft_s.p99, one.gain_s, one.extra_delay_s, one.overtaken_s)
    return [
        point.policy,
        f"{point.knobs.max_overtake_s:.4g}",
        f"{point.knobs.lane_share:g}",
        *(_seconds(value) for value in values),
        f"{point.longest_ratio:.2f}x",
        f"{point.reversed_ratio:.2f}x",
    ]


def _seconds(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
