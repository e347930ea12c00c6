"""The rankers of a comparison's arms: the truth, and the truth dealt out at random."""

import bisect
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence

from predictor.prediction import Prediction
from predictor.request import InferenceRequest
from training.compare.client import Timing
from training.lengths import conversation_key
from training.prompts import Prompt


def lengths_seen(prompts: Sequence[Prompt], timings: Sequence[Timing]) -> dict[bytes, float]:
    """The length of each conversation's answer in one arm (the mean where it was asked twice)."""
    seen: defaultdict[bytes, list[int]] = defaultdict(list)
    for prompt, timing in zip(prompts, timings, strict=True):
        seen[conversation_key(prompt.messages)].append(timing.output_tokens)
    return {key: sum(tokens) / len(tokens) for key, tokens in seen.items()}


class OracleRanker:
    """Knows every length beforehand: the bound on what any ranker can give under the same policy."""

    def __init__(self, lengths: Mapping[bytes, float], name: str = "oracle") -> None:
        """`lengths` maps the key of a conversation to output tokens."""
        self._lengths = lengths
        self._sorted = sorted(lengths.values())
        self._name = name

    @property
    def artifact_id(self) -> str:
        return self._name

    def predict(self, request: InferenceRequest) -> Prediction:
        """The true length, its quantile among all known lengths (the middle of ties), and no spread."""
        tokens = self._lengths[conversation_key(request.body.messages or [])]
        below = bisect.bisect_left(self._sorted, tokens)
        upto = bisect.bisect_right(self._sorted, tokens)
        return Prediction((below + upto) / (2 * len(self._sorted)), tokens, tokens, tokens)


def oracle(lengths: Mapping[bytes, float]) -> OracleRanker:
    """True lengths."""
    return OracleRanker(lengths)


def shuffled(lengths: Mapping[bytes, float], seed: int) -> OracleRanker:
    """True lengths dealt to the wrong prompts: what an order costs when it knows nothing."""
    dealt = list(lengths.values())
    random.Random(seed).shuffle(dealt)
    return OracleRanker(dict(zip(lengths, dealt, strict=True)), "shuffled")
