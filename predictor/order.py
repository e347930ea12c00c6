"""What an artifact recommends of the order: the policy, D and lane share that replay chose for its traffic."""

from typing import Literal, TypeAlias

import msgspec

from predictor.calibration import MonotoneMap

Choice: TypeAlias = Literal["fcfs", "quantile", "work"]


class WorkScale(msgspec.Struct, frozen=True):
    """What a request costs its engine, and the place of that cost among the traffic's.

    The cost is the request's share of engine time, in seconds with every slot in use: `prefill_token_s` per
    prompt token, `output_token_s` per output token, and `context_token_s` per output token and token of
    context that it attends to. `tokens_per_character` turns a prompt that nobody has tokenised into tokens.
    """

    prefill_token_s: float
    output_token_s: float
    context_token_s: float
    tokens_per_character: float
    quantile: MonotoneMap

    def work_s(self, prompt_tokens: float, output_tokens: float) -> float:
        """Seconds of the engine's time."""
        context = prompt_tokens + output_tokens / 2
        per_output_s = self.output_token_s + self.context_token_s * context
        return self.prefill_token_s * prompt_tokens + output_tokens * per_output_s

    def place(self, prompt_tokens: float, output_tokens: float) -> float:
        """The quantile, in [0, 1], of that much work."""
        return min(1.0, max(0.0, self.quantile(self.work_s(prompt_tokens, output_tokens))))


class Order(msgspec.Struct, frozen=True):
    """One point of the frontier. `verdict` is replay's sentence about the traffic that it was chosen on.

    `work` is there where predictions can be placed by work; the policy `work` needs it.
    """

    policy: Choice
    max_overtake_s: float
    lane_share: float = 0.0
    work: WorkScale | None = None
    verdict: str = ""
