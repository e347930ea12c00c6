"""What the emulated engine says: one choice per sequence, filler words for tokens, and what it cost."""

from collections.abc import Sequence
from typing import Final

from training.emulator.faults import UsageLie
from training.lengths import AnswerLength

_TEXT: Final = (
    "time way day man thing woman life child world school state family student group country problem hand "
    "part place case week company system program question work number night point home water room mother area"
)
_WORDS: Final = tuple(f" {word}" for word in _TEXT.split())


class Choice:
    """One sequence as the client sees it; times are engine seconds."""

    __slots__ = (
        "arrival_s",
        "cached_tokens",
        "emitted",
        "first_s",
        "full_block_tokens",
        "index",
        "last_s",
        "prompt_tokens",
        "queue_s",
        "reason",
        "tokens",
    )

    def __init__(self, index: int, prompt_tokens: int, full_block_tokens: int, length: AnswerLength) -> None:
        self.index = index
        self.prompt_tokens = prompt_tokens
        self.full_block_tokens = full_block_tokens
        self.tokens = length.tokens
        self.reason = "stop" if length.stopped else "length"
        self.emitted = 0
        self.arrival_s = self.first_s = self.last_s = self.queue_s = 0.0
        self.cached_tokens = 0

    def created_cache_tokens(self) -> int:
        """Prompt tokens that this answer brought into the prefix cache."""
        return max(0, self.full_block_tokens - self.cached_tokens)

    def word(self) -> str:
        """The text of the newest token: filler, or nothing for the end-of-sequence token."""
        if self.emitted == self.tokens and self.reason == "stop":
            return ""
        return _filler(self.index + self.emitted)

    def words(self) -> list[str]:
        """The text of every token of the finished answer."""
        spoken = self.tokens - 1 if self.reason == "stop" else self.tokens
        return [_filler(self.index + count) for count in range(1, spoken + 1)]

    def text(self) -> str:
        """The finished answer."""
        return "".join(self.words())


class Usage:
    """What an answer cost, summed over its choices, `n` to a prompt; each prompt counts once."""

    def __init__(self, choices: Sequence[Choice], n: int, lie: UsageLie) -> None:
        prompts = choices[::n]
        self.prompt_tokens = sum(choice.prompt_tokens for choice in prompts)
        self.cached_tokens = sum(choice.cached_tokens for choice in prompts)
        self.created_cache_tokens = sum(choice.created_cache_tokens() for choice in prompts)
        self.completion_tokens = sum(choice.emitted for choice in choices)
        if lie is UsageLie.WRONG:
            self.completion_tokens = 3 * self.completion_tokens + 1
        self.total_tokens = self.prompt_tokens + self.completion_tokens


def timing_metrics(choice: Choice) -> dict[str, float | None]:
    """vLLM's `--enable-per-request-metrics` object. Its time to first token counts from the first slot."""
    scheduled_s = choice.arrival_s + choice.queue_s
    generation_s = choice.last_s - choice.first_s
    inference_s = choice.last_s - scheduled_s
    return {
        "time_to_first_token_ms": (choice.first_s - scheduled_s) * 1e3,
        "generation_time_ms": generation_s * 1e3,
        "queue_time_ms": choice.queue_s * 1e3,
        "mean_itl_ms": generation_s / (choice.tokens - 1) * 1e3 if choice.tokens > 1 else None,
        "tokens_per_second": choice.tokens / inference_s if inference_s > 0 else None,
    }


def _filler(position: int) -> str:
    return _WORDS[position % len(_WORDS)]
