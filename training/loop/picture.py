"""One picture of a loop: time to first token by order, and predicted against actual lengths."""

from pathlib import Path
from typing import Any

from training.loop.report import LoopReport, Ranked


def draw(report: LoopReport, path: Path) -> None:
    """Write a PNG. Raises ImportError where matplotlib (the `plot` extra) is missing, OSError for the file."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - an optional extra, and slow to import

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    times, *scatters = figure.subplots(
        1, 1 + len(report.ranked), width_ratios=[1.6, *(1 for _ in report.ranked)]
    )
    _draw_times(times, report)
    for axes, ranked in zip(scatters, report.ranked, strict=True):
        _draw_scatter(axes, ranked, report.max_tokens)
    title = f"{report.engine}, {report.load:g}x capacity, {report.requests} requests a pass, D = "
    title += f"{report.max_overtake_s:g} s"
    figure.suptitle(f"{title}\n{report.not_alike}" if report.unsteady else title)
    figure.savefig(path, dpi=120)


def _draw_times(axes: Any, report: LoopReport) -> None:
    names = [one.arm for one in report.summaries]
    axes.barh(names, [one.ttft_mean_s for one in report.summaries], color="#9fb8d8", label="mean")
    for row, one in enumerate(report.summaries):
        axes.plot(one.passes_s, [row] * len(one.passes_s), "k.", markersize=4)
        axes.plot(one.ttft_p99_s, row, "r|", markersize=12)
        low, high = one.between.times_better
        worth = "" if one.arm == "fcfs" else f"{one.times_better:.2f}x ({low:.2f} to {high:.2f})"
        axes.annotate(worth, (0, row), xytext=(4, 9), textcoords="offset points", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("time to first token, s (bar: mean, dots: passes, red: p99; x FCFS)")


def _draw_scatter(axes: Any, ranked: Ranked, longest: int) -> None:
    axes.loglog(ranked.output_tokens, ranked.predicted_tokens, ".", markersize=3, alpha=0.6)
    axes.plot([1, longest], [1, longest], color="grey", linewidth=0.7)
    axes.set_title(f"{ranked.arm}: tau-b {ranked.tau_b:.2f}", fontsize=10)
    axes.set_xlabel("actual tokens")
    axes.set_ylabel("predicted tokens")
