"""What a comparison of orders says: a table row per arm, and one sentence."""

from collections.abc import Sequence

import msgspec
import numpy as np

from training.compare.client import Timing


class ArmReport(msgspec.Struct, frozen=True):
    """The figures of one arm; times in seconds. `overtaken_s`: the most by which a later arrival went first."""

    arm: str
    requests: int
    failed: int
    ttft_mean_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    e2e_mean_s: float
    e2e_p50_s: float
    e2e_p99_s: float
    tokens_per_s: float
    capped_share: float
    overtaken_s: float


class Comparison(msgspec.Struct, frozen=True):
    """All arms of one workload. `max_overtake_s` is D; `load` the arrival rate as a multiple of the capacity."""

    engine: str
    load: float
    requests_per_s: float
    max_tokens: int
    max_overtake_s: float
    arms: tuple[ArmReport, ...]

    def arm(self, name: str) -> ArmReport:
        """The arm of that name."""
        return next(arm for arm in self.arms if arm.arm == name)

    def gain(self, name: str) -> float:
        """How many seconds of mean TTFT an arm takes off first come, first served."""
        return self.arm("fcfs").ttft_mean_s - self.arm(name).ttft_mean_s

    def share_of_oracle(self, name: str) -> float | None:
        """An arm's gain as a share of what true lengths gain; None where order gains nothing at all."""
        possible = self.gain("oracle-quantile")
        return self.gain(name) / possible if possible > 0.01 * self.arm("fcfs").ttft_mean_s else None

    def sentence(self) -> str:
        """The one sentence a user wants to read."""
        fcfs, headway = self.arm("fcfs"), self.arm("headway")
        share = self.share_of_oracle("headway")
        if share is None:
            return (
                "The answers are so alike in length, or the queue is so short, that no order can help: "
                "you do not need Headway here."
            )
        times = fcfs.ttft_mean_s / max(headway.ttft_mean_s, 1e-9)
        return (
            f"At {self.load:g} times what the engine can serve, answers begin {times:.1f} times sooner on average "
            f"({fcfs.ttft_mean_s:.2f} s -> {headway.ttft_mean_s:.2f} s), {share:.0%} of what knowing every length "
            f"would give, and nobody is passed by a request that came more than {self.max_overtake_s:g} s later "
            f"(longest: {headway.overtaken_s:.1f} s)."
        )


def report(arm: str, timings: Sequence[Timing]) -> ArmReport:
    """The figures of one arm's answers (failed ones are counted and left out of the times)."""
    good = [timing for timing in timings if timing.ok]
    ttft = np.array([timing.ttft_s for timing in good] or [np.nan])
    e2e = np.array([timing.e2e_s for timing in good] or [np.nan])
    ends = [timing.sent_s + timing.e2e_s for timing in good] or [np.nan]
    tokens = sum(timing.output_tokens for timing in good)
    return ArmReport(
        arm=arm,
        requests=len(timings),
        failed=len(timings) - len(good),
        ttft_mean_s=float(ttft.mean()),
        ttft_p50_s=float(np.quantile(ttft, 0.5)),
        ttft_p99_s=float(np.quantile(ttft, 0.99)),
        e2e_mean_s=float(e2e.mean()),
        e2e_p50_s=float(np.quantile(e2e, 0.5)),
        e2e_p99_s=float(np.quantile(e2e, 0.99)),
        tokens_per_s=tokens / max(ends),
        capped_share=sum(timing.finish_reason == "length" for timing in good) / max(1, len(good)),
        overtaken_s=longest_overtaking_s(good),
    )


def longest_overtaking_s(timings: Sequence[Timing]) -> float:
    """The largest lead of an earlier arrival over a later one whose answer began before, as its client saw it."""
    worst_s = 0.0
    latest_sent_s = 0.0
    for timing in sorted(timings, key=lambda t: t.sent_s + t.ttft_s):
        worst_s = max(worst_s, latest_sent_s - timing.sent_s)
        latest_sent_s = max(latest_sent_s, timing.sent_s)
    return worst_s
