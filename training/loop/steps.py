"""How many tokens an engine makes at each of its steps: by its own count, which no neighbour of the machine disturbs."""

import asyncio
from typing import Final

import aiohttp
import msgspec

_STEPS: Final = "vllm:iteration_tokens_total_count"
_TOKENS: Final = "vllm:generation_tokens_total"


class Count(msgspec.Struct, frozen=True):
    """What an engine has done since its start."""

    steps: float
    tokens: float


class StepWatch:
    """Looks at the engine's counters after so many answers, and again after so many."""

    def __init__(self, url: str, first: int, last: int) -> None:
        self._url = url
        self._at = (first, last)
        self._answers = 0
        self._looks: list[asyncio.Task[Count | None]] = []

    def answered(self) -> None:
        """One more answer has ended."""
        self._answers += 1
        if self._answers in self._at:
            self._looks.append(asyncio.get_running_loop().create_task(_look(self._url)))

    async def tokens_per_step(self) -> float | None:
        """Output tokens per step between the two looks, those of queries among them; None where nothing is told."""
        looks = await asyncio.gather(*self._looks)
        first, last = looks if len(looks) == len(self._at) else (None, None)
        if first is None or last is None or last.steps <= first.steps:
            return None
        return (last.tokens - first.tokens) / (last.steps - first.steps)


def read_count(exposition: str) -> Count | None:
    """The counters in an engine's /metrics; None where it has none of them."""
    found: dict[str, float] = {}
    for line in exposition.splitlines():
        name = line.partition("{")[0]
        if name in (_STEPS, _TOKENS):
            found[name] = found.get(name, 0.0) + float(line.rpartition(" ")[2])
    return Count(found[_STEPS], found[_TOKENS]) if len(found) == 2 else None


async def _look(url: str) -> Count | None:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as page:
        return read_count(await page.text())
