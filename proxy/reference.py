"""The published tables, made from the code: configuration keys, error codes, routes, metrics.

`python -m proxy.reference > REFERENCE.md`
"""

import asyncio
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec
from prometheus_client import Metric

from proxy.app import Headway
from proxy.class_settings import ClassSettings
from proxy.describe import describe
from proxy.errors import error_classes
from proxy.identity import KeySettings
from proxy.routes import ROUTES
from proxy.settings import Settings

_CONFIGURATION: Final = """\
A key in the TOML file, `HEADWAY_` and the key in capitals in the environment, or a flag with
dashes; the later wins. An unknown key is an error."""
_LENGTHS: Final = """\
What `headway train`, `evaluate` and `replay` read besides a traffic log: one request and the length of its answer
per line (`*.jsonl`, `*.jsonl.gz`) or row (`*.parquet`). `train` wants at least 20 to train on.

```json
{"messages": [{"role": "user", "content": "Name a metal."}], "model": "m", "max_tokens": 512, "output_tokens": 3}
```"""
_LENGTH_FIELDS: Final = (
    ("`messages`, `prompt` or `input`", "The prompt as clients send it; a row without one is skipped."),
    ("`model`, `max_tokens`, `temperature`, `tools`, …", "Other fields of the request's body, where known."),
    ("`output_tokens`", "Tokens of the answer, reasoning included; a row without them is skipped."),
    ("`truncated`", "true: it was cut at a limit. Reaching the row's own limit says so by itself."),
    ("`split`", "`train` or `heldout`. Where no row has one, the last fifth is held out."),
    ("`id`", "A second row of the same id is skipped."),
    ("`tenant`", "Who asked; absent: one tenant."),
    ("`part`", "What `evaluate` reports apart."),
)

_COMMANDS: Final = """\
Where it is not 0, stderr says what is wrong. `headway doctor` instead says what it found: 0 good,
1 bad, 2 not proven, or asked wrongly."""
_STATUSES: Final = (
    ("0", "Done; `serve` and `run`: stopped by a signal; `retrain`: also where it keeps what serves."),
    (
        "1",
        "It could not be done, or the gate or an arm of the demo failed: data, artifact, disk, port, engine.",
    ),
    ("2", "It was asked wrongly, and nothing was done: flags, environment, the file of `--config`."),
    ("130", "Interrupted by SIGINT, where no proxy ends in good order."),
)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(_cell(text) for text in row)} |"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split()) or " "


def _metrics() -> Iterator[tuple[str, str, str, str]]:
    for family in asyncio.run(_families()):
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        name = f"{family.name}_total" if family.type == "counter" else family.name
        yield f"`{name}`", family.type, ", ".join(labels), family.documentation


async def _families() -> list[Metric]:
    """What a proxy exports that has started and seen nothing yet, neither engine nor Redis."""
    with tempfile.TemporaryDirectory() as state:
        nowhere = "127.0.0.1:9"
        headway = Headway(
            Settings(engine=(f"http://{nowhere}",), redis=f"redis://{nowhere}/0", port=0, state=state)
        )
        await headway.start()
        families = list(headway.metrics.registry.collect())
        await headway.stop()
    return families


def _settings(struct: type[msgspec.Struct]) -> Iterator[str]:
    rows = ((f"`{name}`", default, text) for name, default, text in describe(struct))
    return _table(("key", "default", "what"), rows)


def _errors() -> Iterator[str]:
    rows = (
        (f"`{one.code}`", str(one.status), "yes" if one.retryable else "no", one.__doc__ or "", one.advice)
        for one in error_classes()
    )
    return _table(("code", "status", "worth a retry at once", "what", "what to do"), rows)


def _routes() -> Iterator[str]:
    rows = ((route.method, f"`{route.path}`", route.handling.value) for route in ROUTES.values())
    return _table(("method", "path", "handling"), rows)


def _sections() -> Iterator[tuple[str, str, Iterable[str]]]:
    """Heading, what has to be said first, and table."""
    yield "## Configuration", _CONFIGURATION, _settings(Settings)
    yield "### `[[classes]]`", "", _settings(ClassSettings)
    yield "### `[[keys]]`", "", _settings(KeySettings)
    yield "## Errors", "SDKs are told not to retry at once by `x-should-retry: false`.", _errors()
    yield "## Routes", "", _routes()
    metrics = _table(("name", "type", "labels", "what"), _metrics())
    yield "## Metrics", "`headway_redis_up` and `headway_proxies` are there with `redis` only.", metrics
    yield "## Exit statuses", _COMMANDS, _table(("status", "what"), _STATUSES)
    yield "## Lengths files", _LENGTHS, _table(("field", "what"), _LENGTH_FIELDS)


def document() -> str:
    """The whole page, Markdown."""
    lines = ["# Reference", "", "Made from the code by `make reference`.", ""]
    for heading, text, table in _sections():
        lines += [heading, "", *([text, ""] if text else []), *table, ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(document())
