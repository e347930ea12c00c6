"""The tables that a person reads."""

from collections.abc import Callable, Mapping, Sequence

from rich.console import Console
from rich.table import Table

from bench.cases import Case
from bench.rows import DIRECT, FLOOR, Failure, Row, Streamed
from bench.summary import Spread

Column = tuple[str, Callable[[Row], str]]


def print_report(
    console: Console,
    cases: Sequence[Case],
    rows: Sequence[Row],
    failures: Sequence[Failure],
    rss_mb: Mapping[str, float],
) -> None:
    """One table per case, memory, failures, and the two figures that matter most."""
    for case in cases:
        of_case = [row for row in rows if row.case == case.name]
        console.print(_table(case, of_case))
    console.print(
        "Resident memory after the run, MB: " + ", ".join(f"{arm} {size:.0f}" for arm, size in rss_mb.items())
    )
    for failure in failures:
        console.print(f"[red]{failure.case}, {failure.arm}: {failure.reason}", markup=True)
    for row in rows:
        if row.arm not in (DIRECT, FLOOR) and row.case in ("unary-1", "unary-32"):
            console.print(_verdict(row))


def _verdict(row: Row) -> str:
    if row.case == "unary-1":
        return f"{row.arm}: adds {_times(row.added_p50_vs_floor)} of what the floor adds to p50"
    return f"{row.arm}: {_count(row.answers_per_s)} requests/s on one core"


def _table(case: Case, rows: Sequence[Row]) -> Table:
    columns = _STREAM_COLUMNS if case.load.events else _UNARY_COLUMNS
    table = Table(title=f"{case.name}: {case.title}", title_justify="left")
    table.add_column("arm")
    for name, _ in columns:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(row.arm, *(cell(row) for _, cell in columns))
    return table


def _ms(seconds: Spread) -> str:
    return f"{seconds.median * 1e3:.3f} ({seconds.low * 1e3:.3f}–{seconds.high * 1e3:.3f})"


def _one_ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}"


def _times(spread: Spread) -> str:
    return f"{spread.median:.2f}× ({spread.low:.2f}–{spread.high:.2f})"


def _count(spread: Spread) -> str:
    return f"{spread.median:,.0f} ({spread.low:,.0f}–{spread.high:,.0f})"


def _streamed(cell: Callable[[Streamed], str]) -> Callable[[Row], str]:
    return lambda row: cell(row.streamed) if row.streamed else "–"


_UNARY_COLUMNS: Sequence[Column] = (
    ("p50 ms", lambda row: _ms(row.p50_s)),
    ("p90", lambda row: _one_ms(row.p90_s)),
    ("p99", lambda row: _one_ms(row.p99_s)),
    ("× direct", lambda row: f"{row.p50_vs_direct.median:.1f}"),
    ("added p50", lambda row: _one_ms(row.added_p50_s.median)),
    ("× floor's", lambda row: "–" if row.arm == DIRECT else _times(row.added_p50_vs_floor)),
    ("requests/s", lambda row: _count(row.answers_per_s)),
    ("× floor", lambda row: f"{row.answers_vs_floor.median:.2f}"),
    ("CPU µs", lambda row: f"{row.cpu_us_per_answer.median:.0f}"),
)
_STREAM_COLUMNS: Sequence[Column] = (
    ("chunks/s", _streamed(lambda one: _count(one.chunks_per_s))),
    ("× floor", _streamed(lambda one: f"{one.chunks_vs_floor.median:.2f}")),
    ("first p50 ms", _streamed(lambda one: _ms(one.first_p50_s))),
    ("p99", _streamed(lambda one: _one_ms(one.first_p99_s))),
    ("added p50", _streamed(lambda one: _one_ms(one.added_first_p50_s.median))),
    ("gap p99 ms", _streamed(lambda one: _one_ms(one.gap_p99_s))),
    ("whole p50 ms", lambda row: _one_ms(row.p50_s.median)),
    ("CPU µs/chunk", _streamed(lambda one: f"{one.cpu_us_per_chunk.median:.1f}")),
)
