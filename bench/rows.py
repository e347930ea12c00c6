"""The figures of one arm in one case, ready for a table or for JSON."""

from collections.abc import Mapping

import msgspec

from bench.cases import Case
from bench.summary import (
    Rounds,
    Spread,
    added,
    added_ratio,
    answers_per_s,
    cpu_us_per_answer,
    cpu_us_per_event,
    events_per_s,
    first_p50_s,
    over_rounds,
    p50_s,
    pooled,
    ratio,
)

DIRECT = "direct"
FLOOR = "floor"


class Streamed(msgspec.Struct, frozen=True):
    """Figures that only streams have. `gap_p99_s` is between chunks of one stream."""

    chunks_per_s: Spread
    chunks_vs_floor: Spread
    first_p50_s: Spread
    added_first_p50_s: Spread
    added_first_vs_floor: Spread
    first_p99_s: float
    gap_p99_s: float
    cpu_us_per_chunk: Spread


class Row(msgspec.Struct, frozen=True):
    """Seconds to the whole answer, throughput, CPU time; `..._vs_floor` are multiples of the floor's figure.

    `added_...` is what an arm adds to direct. Percentiles above the median are pooled over all rounds.
    """

    case: str
    arm: str
    p50_s: Spread
    p90_s: float
    p99_s: float
    p50_vs_direct: Spread
    added_p50_s: Spread
    added_p50_vs_floor: Spread
    answers_per_s: Spread
    answers_vs_floor: Spread
    cpu_us_per_answer: Spread
    streamed: Streamed | None = None


class Failure(msgspec.Struct, frozen=True):
    """An arm that could not be measured in a case, and why."""

    case: str
    arm: str
    reason: str


def make_row(case: Case, arm: str, by_arm: Mapping[str, Rounds]) -> Row:
    """Figures of `arm`; `by_arm` holds the same rounds of the direct and the floor arm too."""
    rounds, floor, direct = by_arm[arm], by_arm[FLOOR], by_arm[DIRECT]
    return Row(
        case=case.name,
        arm=arm,
        p50_s=over_rounds(rounds, p50_s),
        p90_s=pooled(rounds, lambda sample: sample.e2e_s, 90),
        p99_s=pooled(rounds, lambda sample: sample.e2e_s, 99),
        p50_vs_direct=ratio(rounds, direct, p50_s),
        added_p50_s=added(rounds, direct, p50_s),
        added_p50_vs_floor=added_ratio(rounds, floor, direct, p50_s),
        answers_per_s=over_rounds(rounds, answers_per_s),
        answers_vs_floor=ratio(rounds, floor, answers_per_s),
        cpu_us_per_answer=over_rounds(rounds, cpu_us_per_answer),
        streamed=_streamed(rounds, floor, direct) if case.load.events else None,
    )


def _streamed(rounds: Rounds, floor: Rounds, direct: Rounds) -> Streamed:
    return Streamed(
        chunks_per_s=over_rounds(rounds, events_per_s),
        chunks_vs_floor=ratio(rounds, floor, events_per_s),
        first_p50_s=over_rounds(rounds, first_p50_s),
        added_first_p50_s=added(rounds, direct, first_p50_s),
        added_first_vs_floor=added_ratio(rounds, floor, direct, first_p50_s),
        first_p99_s=pooled(rounds, lambda sample: sample.first_s, 99),
        gap_p99_s=pooled(rounds, lambda sample: sample.gaps_s, 99),
        cpu_us_per_chunk=over_rounds(rounds, cpu_us_per_event),
    )
