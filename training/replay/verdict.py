"""The verdict in words: what order can give this traffic, and when it gives nothing."""

from collections.abc import Iterable
from typing import Final

import numpy as np

from training.replay.measures import Figures

# Where true lengths or true work put the shortest first, no order begins answers sooner in the mean.
SHORTEST_FIRST: Final = ("oracle-sjf", "oracle-work-sjf")
# Policies under which nothing bounds how much later an arrival may be sent first.
_UNBOUNDED: Final = ("sjf", "work-sjf", "hrrn")
# Fewer logged requests tell nothing of a wait.
_FEWEST: Final = 20
# A mean wait of no more than this share of the mean E2E is no queue.
_NO_QUEUE: Final = 0.02
# Less than this many times better, even with every length known, is not worth a proxy.
_WORTHWHILE: Final = 1.1


def headroom(fcfs: Figures, best: Figures) -> float:
    """How many times sooner answers begin, in the mean, under `best` than under FCFS."""
    return fcfs.ttft_s.mean / max(best.ttft_s.mean, 1e-9)


def verdict(fcfs: Figures, best: Figures, ours: Figures | None, max_overtake_s: float) -> str:
    """One sentence for an operator; `best` marks what no order can beat, `ours` is what was predicted."""
    if fcfs.wait_s.mean <= _NO_QUEUE * fcfs.e2e_s.mean:
        return (
            f"At this load hardly anybody queues (wait {fcfs.wait_s.mean:.2f} s in the mean, p99 {fcfs.wait_s.p99:.2f} "
            f"s; an answer takes {fcfs.e2e_s.mean:.1f} s): nothing to reorder, Headway is not needed here."
        )
    most = headroom(fcfs, best)
    if most < _WORTHWHILE:
        return (
            f"There is a queue (mean wait {fcfs.wait_s.mean:.1f} s), but requests are too alike in length "
            f"and in work: knowing every length would give only {most:.2f}x. More capacity "
            "helps here, Headway is not needed."
        )
    from_s, to_s = fcfs.ttft_s.mean, best.ttft_s.mean
    said = f"Your traffic has {most:.1f}x headroom (mean TTFT {from_s:.2f} s -> {to_s:.2f} s)"
    if ours is None:
        return f"{said}; no order with predictions was asked for."
    if not max_overtake_s:
        return f"{said}, but no order that gains keeps the limits: allow more extra delay, or stay with FCFS."
    gets = headroom(fcfs, ours)
    if gets < _WORTHWHILE:
        so_far = f"with D = {max_overtake_s:.3g} s and these predictions order gives {gets:.2f}x"
        return f"{said}, but {so_far}: {_why(ours)}."
    by = " by predicted work" if ours.policy == "work" else ""
    overtaken = f"nobody overtaken by more than {max_overtake_s:.3g} s"
    if ours.policy in _UNBOUNDED:
        overtaken = f"no bound on being overtaken ({ours.overtaken_s:.3g} s here)"
    return (
        f"{said}; order{by} can give you {gets:.1f}x (-> {ours.ttft_s.mean:.2f} s) with {overtaken}, and no first "
        f"token more than {ours.extra_delay_s:.1f} s later than under FCFS."
    )


def logged_wait(known: Iterable[tuple[float | None, float | None]]) -> str:
    """What a log itself says of its queue, in words; `known` are waits and whole times in seconds of its requests.

    A replay plays a load that is asked for, which need not be the log's; nothing where too few tell.
    """
    pairs = np.array([pair for pair in known if None not in pair], dtype=np.float64).reshape(-1, 2)
    # A wait that is negative or longer than the whole is a broken record.
    wait_s, e2e_s = pairs[(pairs[:, 0] >= 0) & (pairs[:, 0] <= pairs[:, 1])].T
    if len(wait_s) < _FEWEST:
        return ""
    seen = f"wait {wait_s.mean():.2f} s in the mean, p99 {np.quantile(wait_s, 0.99):.2f} s, of {e2e_s.mean():.1f} s"
    if wait_s.mean() <= _NO_QUEUE * e2e_s.mean():
        return f" In the log itself hardly anybody queued ({seen}): as long as that is so, Headway is not needed."
    return f" In the log itself requests did queue: {seen} in all."


def _why(ours: Figures) -> str:
    if ours.gain_s < 0:
        return "worse than no order at all, so train on this traffic first"
    return "train on this traffic, or allow a larger D (see --tune)"
