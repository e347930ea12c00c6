"""Numbers read off a request's shape and its parameters: turns, sizes, limits, formats, tools, reasoning."""

import math
import re
from functools import lru_cache
from typing import Any, Final

from predictor.features.view import PromptView
from predictor.request import Api, RequestBody, SamplingParams

CONTROL_NAMES: Final = (
    "size.focus", "size.system", "size.history", "size.total", "size.token_ids", "size.clipped",
    "turn.count", "turn.user", "turn.assistant", "turn.tool", "turn.tool_calls", "turn.last_assistant_chars",
    "turn.mean_assistant_chars", "turn.ends_with_user",
    "media.images", "media.other",
    "control.max_tokens", "control.min_tokens", "control.ignore_eos", "control.n", "control.prompts",
    "control.stops", "control.temperature", "control.top_p", "control.stream",
    "control.tools", "control.tools_bytes", "control.tool_choice", "control.format", "control.schema_bytes",
    "control.constrained", "control.reasoning", "control.reasoning_budget", "control.completion",
    "model.billions", "model.reasons",
)  # fmt: skip

_EFFORT: Final = {
    "none": 0.0,
    "minimal": 1.0,
    "low": 2.0,
    "medium": 3.0,
    "high": 4.0,
    "xhigh": 5.0,
    "max": 5.0,
}
_FORMAT: Final = {"text": 0.0, "json_object": 1.0, "json_schema": 2.0}
_BILLIONS: Final = re.compile(r"(\d{1,4}(?:\.\d)?)\s?b(?![a-z])")
_REASONS: Final = re.compile(r"think|reason|(?<![a-z])o[134](?![a-z0-9])|r1|qwq|-thk")
_NAN: Final = math.nan
_MODEL_CHARS: Final = 200
_TOOLS_READ: Final = 64
_NO_SAMPLING: Final = SamplingParams()
# A client may send any integer; beyond this a float could overflow.
_LARGEST: Final = 10**12


def control_features(body: RequestBody, view: PromptView, api: Api | None) -> list[float]:
    """One value per CONTROL_NAMES; NaN where the client left a parameter out."""
    sampling = body.sampling_params or _NO_SAMPLING
    return [
        *_sizes(view),
        *_turns(view),
        *_limits(body, sampling, view),
        *_formats(body, sampling),
        *_reasoning(body, api),
        *_model((body.model or "")[:_MODEL_CHARS]),
    ]


def _sizes(view: PromptView) -> list[float]:
    total = view.focus_chars + view.system_chars + view.history_chars
    return [
        math.log1p(view.focus_chars),
        math.log1p(view.system_chars),
        math.log1p(view.history_chars),
        math.log1p(total),
        math.log1p(view.token_ids),
        float(view.focus_chars > len(view.focus)),
    ]


def _turns(view: PromptView) -> list[float]:
    last = view.last_assistant_chars
    mean = view.assistant_chars / view.assistant_turns if view.assistant_turns else -1
    return [
        float(view.turns),
        float(view.user_turns),
        float(view.assistant_turns),
        float(view.tool_turns),
        float(view.tool_calls),
        math.log1p(last) if last >= 0 else _NAN,
        math.log1p(mean) if mean >= 0 else _NAN,
        float(view.ends_with_user),
        float(view.images),
        float(view.other_media),
    ]


def _limits(body: RequestBody, sampling: SamplingParams, view: PromptView) -> list[float]:
    return [
        _log(output_limit(body)),
        _log(sampling.min_new_tokens if body.min_tokens is None else body.min_tokens),
        float(bool(body.ignore_eos)),
        _log(sampling.n if body.n is None else body.n),
        math.log1p(view.prompts),
        float(_count(body.stop) + _count(body.stop_sequences) + _count(sampling.stop)),
        _clean(sampling.temperature if body.temperature is None else body.temperature),
        _clean(body.top_p),
        float(bool(body.stream)),
    ]


def output_limit(body: RequestBody) -> int | None:
    """The client's own cap on output tokens, whatever the dialect calls it."""
    sampling = body.sampling_params
    for limit in (
        body.max_completion_tokens,
        body.max_tokens,
        body.max_output_tokens,
        sampling.max_new_tokens if sampling else None,
    ):
        if limit is not None:
            return limit
    return None


def _formats(body: RequestBody, sampling: SamplingParams) -> list[float]:
    kind, schema_bytes = _format(body)
    constrained = body.structured_outputs is not None or bool(sampling.regex or sampling.json_schema)
    tools = body.tools or ()
    return [
        float(len(tools)),
        math.log1p(sum(map(len, tools[:_TOOLS_READ]))),
        _tool_choice(body.tool_choice),
        _FORMAT.get(kind, 2.0),
        math.log1p(schema_bytes),
        float(constrained),
    ]


def _format(body: RequestBody) -> tuple[str, int]:
    """The kind of format asked for, and the size of its schema in bytes."""
    if isinstance(body.text, dict):
        return _responses_format(body.text)
    response = body.response_format
    if response is None:
        return "text", 0
    return response.type, len(response.json_schema or response.schema)


def _responses_format(text: dict[str, Any]) -> tuple[str, int]:
    """`text.format` of the responses API: its type and a guess at the size of its schema."""
    given = text.get("format")
    if not isinstance(given, dict):
        return "text", 0
    schema = given.get("schema")
    properties = schema.get("properties") if isinstance(schema, dict) else None
    return str(given.get("type", "text")), 60 * len(properties) if isinstance(properties, dict) else 0


def _tool_choice(choice: Any) -> float:
    """Absent NaN, none 0, auto 1, required 2, a named function 3."""
    if choice is None:
        return _NAN
    if isinstance(choice, dict):
        choice = {"auto": "auto", "none": "none", "any": "required"}.get(str(choice.get("type")), "named")
    return {"none": 0.0, "auto": 1.0, "required": 2.0}.get(str(choice), 3.0)


def _reasoning(body: RequestBody, api: Api | None) -> list[float]:
    reasoning, thinking = body.reasoning, body.thinking
    effort = body.reasoning_effort or (reasoning.effort if reasoning else None)
    level = _EFFORT.get(effort, 3.0) if effort else _NAN
    if thinking is not None and thinking.type is not None:
        level = 0.0 if thinking.type == "disabled" else 3.0
    switch = body.chat_template_kwargs.get("enable_thinking") if body.chat_template_kwargs else None
    if isinstance(switch, bool):
        level = 3.0 if switch else 0.0
    budget = thinking.budget_tokens if thinking else None
    return [level, _log(budget), float(api in (Api.COMPLETIONS, Api.GENERATE))]


@lru_cache(maxsize=1_024)
def _model(name: str) -> tuple[float, float]:
    """What a model's name gives away: its size in billions of parameters, and whether it reasons."""
    folded = name.lower()
    sizes = _BILLIONS.findall(folded)
    return (float(sizes[-1]) if sizes else _NAN, float(bool(_REASONS.search(folded))))


def _count(stop: str | list[str] | None) -> int:
    if stop is None:
        return 0
    return 1 if isinstance(stop, str) else len(stop)


def _log(value: int | None) -> float:
    return math.log1p(min(value, _LARGEST)) if value is not None and value >= 0 else _NAN


def _clean(value: float | None) -> float:
    if value is None or not math.isfinite(value):
        return _NAN
    return min(float(_LARGEST), max(-float(_LARGEST), value))
