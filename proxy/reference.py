"""The published tables, made from the code: configuration keys, error codes, routes, metrics.

`python -m proxy.reference > REFERENCE.md`
"""

import asyncio
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence

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
        yield f"`{family.name}`", family.type, ", ".join(labels), family.documentation


async def _families() -> list[Metric]:
    """What a proxy exports that has started and seen nothing yet."""
    with tempfile.TemporaryDirectory() as state:
        headway = Headway(Settings(engine=("http://127.0.0.1:9",), port=0, state=state))
        await headway.start()
        families = list(headway.metrics.registry.collect())
        await headway.stop()
    return families


def document() -> str:
    """The whole page, Markdown."""
    keys = ((f"`{name}`", default, text) for name, default, text in describe(Settings))
    classes = ((f"`{name}`", default, text) for name, default, text in describe(ClassSettings))
    users = ((f"`{name}`", default, text) for name, default, text in describe(KeySettings))
    errors = (
        (f"`{one.code}`", str(one.status), "yes" if one.retryable else "no", one.__doc__ or "", one.advice)
        for one in error_classes()
    )
    routes = ((route.method, f"`{route.path}`", route.handling.value) for route in ROUTES.values())
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
            *_table(("key", "default", "what"), keys),
            "",
            "### `[[classes]]`",
            "",
            *_table(("key", "default", "what"), classes),
            "",
            "### `[[keys]]`",
            "",
            *_table(("key", "default", "what"), users),
            "",
            "## Errors",
            "",
            *_table(("code", "status", "worth a retry", "what", "what to do"), errors),
            "",
            "## Routes",
            "",
            *_table(("method", "path", "handling"), routes),
            "",
            "## Metrics",
            "",
            *_table(("name", "type", "labels", "what"), _metrics()),
            "",
        ]
    )


if __name__ == "__main__":
    sys.stdout.write(document())
