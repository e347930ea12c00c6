"""One picture of a loop: time to first token by order, and predicted against actual lengths."""

from pathlib import Path
from typing import Any, Final

from training.loop.report import LoopReport, Ranked

_LONGEST: Final = 4_096


def draw(report: LoopReport, path: Path) -> None:
    """Write a PNG. Raises ImportError where matplotlib (the `plot` extra) is missing, OSError for the file."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - an optional extra, and slow to import

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    times, *scatters = figure.subplots(
        1, 1 + len(report.ranked), width_ratios=[1.6, *(1 for _ in report.ranked)]
    )
    _draw_times(times, report)
    for axes, ranked in zip(scatters, report.ranked, strict=True):
        _draw_scatter(axes, ranked)
    figure.suptitle(
        f"{report.engine}, {report.load:g}x capacity, {report.requests} requests a pass, D = {report.max_overtake_s:g} s"
    )
    figure.savefig(path, dpi=120)


def _draw_times(axes: Any, report: LoopReport) -> None:
    names = [one.arm for one in report.summaries]
    axes.barh(names, [one.ttft_mean_s for one in report.summaries], color="#9fb8d8", label="mean")
    for row, one in enumerate(report.summaries):
        axes.plot(one.passes_s, [row] * len(one.passes_s), "k.", markersize=4)
        axes.plot(one.ttft_p99_s, row, "r|", markersize=12)
    axes.invert_yaxis()
    axes.set_xlabel("time to first token, s (bar: mean, dots: passes, red: p99)")


def _draw_scatter(axes: Any, ranked: Ranked) -> None:
    axes.loglog(ranked.output_tokens, ranked.predicted_tokens, ".", markersize=3, alpha=0.6)
    axes.plot([1, _LONGEST], [1, _LONGEST], color="grey", linewidth=0.7)
    axes.set_title(f"{ranked.arm}: tau-b {ranked.tau_b:.2f}", fontsize=10)
    axes.set_xlabel("actual tokens")
    axes.set_ylabel("predicted tokens")
