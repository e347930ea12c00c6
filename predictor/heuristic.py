"""A transparent guess for a first start: what the prompt asks for in so many words, else a middle place."""

import re
from typing import Final

import msgspec

from predictor.prediction import Prediction
from predictor.request import InferenceRequest, Message, Part, RequestBody

_TAIL_CHARACTERS: Final = 2_000
_MIDDLE: Final = 0.5
_CUES: Final = (
    (
        re.compile(
            r"\b(yes or no|true or false|one word|single word|only the (number|letter|label))\b", re.I
        ),
        0.05,
    ),
    (re.compile(r"\b(classify|sentiment|which (one|option)|reply with just)\b", re.I), 0.15),
    (re.compile(r"\b(one|a single|1) sentence\b", re.I), 0.3),
    (re.compile(r"\b(translate|summari[sz]e|extract|json)\b", re.I), 0.4),
    (re.compile(r"\b(essay|story|article|in detail|step by step|report|blog post)\b", re.I), 0.9),
    (re.compile(r"\b(code|function|program|script|implement)\b", re.I), 0.75),
)


class HeuristicRanker(msgspec.Struct, frozen=True):
    """Ranks by cue words of the last turn."""

    @property
    def artifact_id(self) -> str:
        return "heuristic"

    def predict(self, request: InferenceRequest) -> Prediction:
        text = _last_text(request.body)[-_TAIL_CHARACTERS:]
        quantile = next((place for cue, place in _CUES if cue.search(text)), _MIDDLE)
        tokens = 16.0 * 64.0**quantile
        return Prediction(quantile, tokens, tokens / 4, tokens * 4)


def _last_text(body: RequestBody) -> str:
    if body.messages:
        return _content_text(body.messages[-1])
    if isinstance(body.prompt, str):
        return body.prompt
    return ""


def _content_text(message: Message) -> str:
    if isinstance(message.content, str):
        return message.content
    parts = message.content or []
    return " ".join(part.text or "" for part in parts if isinstance(part, Part))
