"""What to replay: sizes, recorded arrivals where there are some, and what was or can be predicted of each row."""

import csv
import gzip
import math
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from predictor.request import RequestBody, body_from_dict, guessed_tokens
from training.completion import long_over
from training.profiles import EngineProfile
from training.sources import DataError, LoggedRequest, Row, is_traffic, read_source, read_traffic, shown

IntArray = npt.NDArray[np.int64]
DoubleArray = npt.NDArray[np.float64]

_MOST_TOKENS: Final = 10_000_000
# Of a traffic log the latest: what it was like a month ago is not what it is like.
LATEST: Final = 20_000
_BODY_FIELDS: Final = frozenset(RequestBody.__struct_fields__)
_TRACE_COLUMNS: Final = ("t_seconds", "prompt_tokens", "output_tokens")


class Item(msgspec.Struct, frozen=True):
    """One request of a source. `features`: logged values, little-endian float32, of these `names`; `wait_s`: logged
    time in the proxy's queue, where the engine has none of its own, and `e2e_s` until the end."""

    prompt_tokens: int
    output_tokens: int
    at_s: float | None = None
    quantile: float | None = None
    tokens: float | None = None
    split: str = ""
    body: RequestBody | None = None
    features: bytes | None = None
    names: tuple[str, ...] = ()
    wait_s: float | None = None
    e2e_s: float | None = None


class Workload(msgspec.Struct, frozen=True):
    """All requests of a source, oldest first where times are known. `skipped`: rows that could not be used;
    `logged`: they are the latest of a traffic log."""

    source: str
    items: list[Item]
    skipped: int = 0
    logged: bool = False

    def __len__(self) -> int:
        return len(self.items)

    @property
    def output_tokens(self) -> IntArray:
        """True lengths (n,)."""
        return np.array([item.output_tokens for item in self.items], dtype=np.int64)

    @property
    def at_s(self) -> DoubleArray | None:
        """Recorded arrivals (n,); None where some row has none, or all came at once."""
        times = [item.at_s for item in self.items if item.at_s is not None]
        return np.array(times) if len(times) == len(self) and times[-1] > times[0] else None

    def fitting(self, profile: EngineProfile) -> "Workload":
        """Without what the engine could never serve. DataError where nothing is left."""
        most = min(profile.max_model_len, profile.num_blocks * profile.block_size)
        kept = [item for item in self.items if item.prompt_tokens + item.output_tokens <= most]
        if not kept:
            raise DataError(
                f"{self.source}: no request fits into {profile.name} ({most} tokens); "
                "choose another --engine-profile"
            )
        return replace(self, items=kept, skipped=self.skipped + len(self) - len(kept))

    def heldout(self) -> "Workload":
        """The rows that are held out from training; all where the source does not split its rows."""
        kept = [item for item in self.items if item.split == "heldout"]
        return replace(self, items=kept) if kept else self

    def sized(self, count: int, *, repeat: bool, rng: np.random.Generator) -> "Workload":
        """`count` requests: the first ones in order, of a log the latest ones, or, to `repeat` them, shuffled and as
        often as needed."""
        if not repeat:
            return replace(self, items=self.items[-count:] if self.logged else self.items[:count])
        rounds = [rng.permutation(len(self)) for _ in range(-(-count // len(self)))]
        return replace(self, items=[self.items[i] for i in np.concatenate(rounds)[:count]])


def read_workload(source: str, latest: int = LATEST, clock_s: Callable[[], float] = time.time) -> Workload:
    """Read a lengths file, an arrival trace (`*.csv`, `*.csv.gz`) or the `latest` requests of a traffic log.

    Raises DataError.
    """
    logged = is_traffic(source)
    found = deque(_items(source), maxlen=latest if logged else None)
    items = [item for item in found if item is not None]
    if not items:
        raise DataError(f"{shown(source)}: no row tells how long its answer was (output_tokens, at least 1)")
    skipped = len(found) - len(items)
    if all(item.at_s is not None for item in items):
        items.sort(key=lambda item: item.at_s or 0.0)
    if logged:
        # A log that is being written lacks the long answers to those who came last.
        over = long_over([(item.at_s or 0.0, item.e2e_s) for item in items], clock_s())
        items = [item for item, is_over in zip(items, over, strict=True) if is_over]
    return Workload(shown(source), items, skipped, logged)


def _items(source: str) -> Iterable[Item | None]:
    if source.endswith((".csv", ".csv.gz")):
        return _read_trace(Path(source))
    if is_traffic(source):
        return (_logged(request) for request in read_traffic(source))
    return (_item(row, location) for location, row in read_source(source))


def _item(row: Row, location: str) -> Item | None:
    """A row of a lengths file; None where its length is unknown or hidden."""
    output_tokens = _count(row.get("output_tokens"), location, "output_tokens")
    if not output_tokens or row.get("hidden_reasoning"):
        return None
    try:
        body = body_from_dict({name: value for name, value in row.items() if name in _BODY_FIELDS})
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise DataError(f"{location}: {error}") from error
    text = row.get("messages") or row.get("prompt")
    prompt_tokens = _count(row.get("prompt_tokens"), location, "prompt_tokens")
    return Item(
        prompt_tokens=prompt_tokens or max(1, guessed_tokens(_characters(text))),
        output_tokens=output_tokens,
        split=str(row.get("split") or ""),
        body=body if text else None,
    )


def _characters(content: object) -> int:
    if isinstance(content, str):
        return len(content)
    if isinstance(content, list):
        return sum(_characters(part) for part in content)
    if isinstance(content, dict):
        return _characters(content.get("content")) + _characters(content.get("text"))
    return 0


def _count(value: object, location: str, name: str) -> int | None:
    """A number of tokens; None where it is missing or makes no sense."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DataError(f"{location}: {name} is a {type(value).__name__}, a number is expected")
    return int(value) if 0 < value <= _MOST_TOKENS else None


def _read_trace(path: Path) -> Iterator[Item | None]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    number = 1
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
            rows = csv.DictReader(lines)
            missing = [name for name in _TRACE_COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                raise DataError(f"{path}: an arrival trace needs the column {missing[0]}")
            for number, row in enumerate(rows, start=2):
                yield _traced(row, f"{path}:{number}")
    except (EOFError, zlib.error, csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: damaged or cut off after line {number}: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _traced(row: dict[str, str], location: str) -> Item | None:
    try:
        at_s, prompt_tokens, output_tokens = (float(row[name]) for name in _TRACE_COLUMNS)
    except (TypeError, ValueError):
        raise DataError(f"{location}: {', '.join(_TRACE_COLUMNS)} must be numbers") from None
    if not math.isfinite(at_s):
        raise DataError(f"{location}: t_seconds is not finite")
    sizes = (
        _count(prompt_tokens, location, "prompt_tokens"),
        _count(output_tokens, location, "output_tokens"),
    )
    return Item(sizes[0], sizes[1], at_s) if sizes[0] and sizes[1] else None


def _logged(request: LoggedRequest) -> Item | None:
    """A request of the log, completed or not, if the engine said what it computed."""
    record = request.record
    if not 0 < (record.output_tokens or 0) <= _MOST_TOKENS:
        return None
    known = record.features is not None and 0 < len(record.features) == 4 * len(request.names)
    return Item(
        prompt_tokens=max(1, record.prompt_tokens or 1),
        output_tokens=record.output_tokens or 0,
        at_s=record.arrival_us / 1e6,
        quantile=record.quantile,
        tokens=record.predicted_tokens,
        features=record.features if known else None,
        names=request.names,
        wait_s=None if record.mode == "engine" else record.queue_s,
        e2e_s=record.e2e_s,
    )
