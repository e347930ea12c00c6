"""The published tables, made from the code: configuration keys, error codes, routes, metrics.

`python -m proxy.reference > REFERENCE.md`
"""

import asyncio
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence

import msgspec
from prometheus_client import Metric

from proxy.app import Headway
from proxy.describe import describe
from proxy.errors import error_classes
from proxy.identity import KeySettings
from proxy.routes import ROUTES
from proxy.settings import ClassSettings, Settings


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


def document() -> str:
    """The whole page, Markdown."""
    return "\n".join(
        [
            "# Reference",
            "",
            "Made from the code by `make reference`.",
            "",
            "## Configuration",
            "",
            "A key in the TOML file, `HEADWAY_` and the key in capitals in the environment, or a flag with",
            "dashes; the later wins. An unknown key is an error.",
            "",
            *_settings(Settings),
            "",
            "### `[[classes]]`",
            "",
            *_settings(ClassSettings),
            "",
            "### `[[keys]]`",
            "",
            *_settings(KeySettings),
            "",
            "## Errors",
            "",
            "SDKs are told not to retry at once by `x-should-retry: false`.",
            "",
            *_errors(),
            "",
            "## Routes",
            "",
            *_routes(),
            "",
            "## Metrics",
            "",
            "`headway_redis_up` and `headway_proxies` are there with `redis` only.",
            "",
            *_table(("name", "type", "labels", "what"), _metrics()),
            "",
        ]
    )


if __name__ == "__main__":
    sys.stdout.write(document())
