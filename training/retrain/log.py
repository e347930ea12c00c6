"""The traffic log as a trainer wants it: recent, bounded, split by time, and with the bias of its order undone."""

import time
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from predictor.records import Outcome, TrafficRecord
from training.completion import completion_weights, long_over
from training.dataset import TRAIN_SHARE, Dataset, read_dataset
from training.examples import unusable
from training.sources import DataError, LoggedRequest, SourceRow, logged_row, read_traffic, shown

DoubleArray = npt.NDArray[np.float64]

FEWEST_ROWS: Final = 200


class Log(msgspec.Struct, frozen=True):
    """The latest answered requests of a log, oldest first: `train` (older) and `held` (newer) of them as arrays.

    `weight` (len(train),) has mean 1. `records` are the held ones' and `older` the others'. `newest` names the
    last request of all. `lost`: how many ended without an answer in the same time.
    """

    train: Dataset
    held: Dataset
    weight: DoubleArray
    older: list[TrafficRecord]
    records: list[TrafficRecord]
    newest: str
    lost: int


def read_log(
    source: str,
    most: int,
    *,
    fewest: int = FEWEST_ROWS,
    advance: Callable[[], None] = lambda: None,
    clock_s: Callable[[], float] = time.time,
) -> Log:
    """Read at most `most` answered requests, the latest; memory is bounded by that, however long the log.

    Those that came lately are left out: only the short ones of them have ended, and of those the ones that were
    predicted short. `clock_s` tells Unix time.

    Raises DataError where the log cannot be read, or holds too little to learn from.
    """
    answered: deque[LoggedRequest] = deque(maxlen=most)
    lost: deque[TrafficRecord] = deque(maxlen=most)
    newest, total = "", 0
    for request in read_traffic(source):
        advance()
        total += 1
        newest = f"{request.record.arrival_us}:{request.record.request_id}"
        if request.record.outcome is Outcome.COMPLETED:
            answered += [request] if request.names else []
        elif request.record.quantile is not None:
            lost.append(request.record)
    if not total:
        raise DataError(f"{shown(source)}: the traffic log is empty; serve some requests first")
    over = _over(list(answered), clock_s(), fewest)
    return _split(shown(source), over, list(lost), newest, fewest)


def _over(answered: list[LoggedRequest], now_s: float, fewest: int) -> list[LoggedRequest]:
    known = [(one.record.arrival_us / 1e6, one.record.e2e_s) for one in answered]
    over = [one for one, is_over in zip(answered, long_over(known, now_s), strict=True) if is_over]
    return over if len(over) >= fewest else answered


def _split(
    source: str, answered: list[LoggedRequest], lost: list[TrafficRecord], newest: str, fewest: int
) -> Log:
    usable = _usable(answered)
    if len(usable) < fewest:
        raise DataError(
            f"{source}: {len(usable)} answers with a length and features; at least {fewest} are needed to learn from"
        )
    rows = (SourceRow(one.location, logged_row(one)) for one in usable)
    data = read_dataset(rows)
    if data.label.min() == data.label.max():
        raise DataError(
            f"{source}: all {len(data)} answers are {data.label[0]:g} tokens long: there is no order to learn"
        )
    cut = int(TRAIN_SHARE * len(data))
    first = np.arange(len(data)) < cut
    train = data.select(first)
    if train.label.min() == train.label.max():
        raise DataError(
            f"{source}: the older {cut} answers are all of one length: there is no order to learn"
        )
    records = [one.record for one in usable]
    since_us = records[0].arrival_us
    missing = [one for one in lost if one.arrival_us >= since_us]
    older_missing = [one for one in missing if one.arrival_us < records[cut].arrival_us]
    return Log(
        train=msgspec.structs.replace(train, split=np.full(cut, "train")),
        held=data.select(~first),
        weight=completion_weights(_quantiles(records[:cut]), _quantiles(older_missing)),
        older=records[:cut],
        records=records[cut:],
        newest=newest,
        lost=len(missing),
    )


def _usable(answered: list[LoggedRequest]) -> list[LoggedRequest]:
    """Those that make a row, so that rows and requests stay side by side."""
    seen: set[str] = set()
    return [one for one in answered if unusable(one.location, logged_row(one), seen) is None]


def _quantiles(records: list[TrafficRecord]) -> DoubleArray:
    """What was predicted of each when it came, NaN where nothing was."""
    return np.array([np.nan if one.quantile is None else one.quantile for one in records], dtype=np.float64)
