"""One extractor and one named, hashed schema, of serving and training alike; its cost is bounded."""

import json
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from rankers import asked, small_head, user

from predictor.artifact import load_artifact
from predictor.features.extractor import FIXED_NAMES, FeatureExtractor, schema_of
from predictor.features.schema import Features, column_of
from predictor.features.view import read_view
from predictor.history import HISTORY_NAMES, NO_HISTORY
from predictor.lightgbm_ranker import DEFAULT_ARTIFACT, LightGBMRanker
from predictor.request import Api, InferenceRequest, RequestBody, body_from_dict, decode_body
from training.dataset import read_dataset
from training.evaluate import vectors
from training.sources import SourceRow

ARTIFACT = load_artifact(DEFAULT_ARTIFACT)
RANKER = LightGBMRanker(ARTIFACT)
EXTRACTOR = FeatureExtractor(ARTIFACT.head)
TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}


def features_of(body: RequestBody | dict[str, Any], api: Api | None = None) -> Features:
    """A body's features, without any history."""
    read = body if isinstance(body, RequestBody) else body_from_dict(body)
    return EXTRACTOR.extract(read, read_view(read), NO_HISTORY, api)


texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60) | st.sampled_from(
    [
        "Answer yes or no.",
        "Write 3 paragraphs about iron",
        "def f(x):\n    return x",
        "A. one\nB. two\n",
        "你好吗？",
    ]
)
part = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url", "input_audio"])}, optional={"text": texts}
)
message = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "narrator"]),
        "content": texts | st.lists(part, max_size=3) | st.none(),
    }
)
limits = st.integers(-5, 2**40) | st.none()
controls = {
    "model": texts,
    "max_tokens": limits,
    "max_completion_tokens": limits,
    "n": limits,
    "temperature": st.floats(-1, 5) | st.none(),
    "stop": st.lists(texts, max_size=3) | texts,
    "tools": st.lists(st.just(TOOL), max_size=3),
    "tool_choice": st.sampled_from(["auto", "none", "required", {"type": "function"}, 7]),
    "response_format": st.sampled_from(
        [{"type": "json_object"}, {"type": "json_schema", "json_schema": {"a": 1}}]
    ),
    "reasoning_effort": st.sampled_from(["none", "low", "high", "unheard of"]),
    "thinking": st.sampled_from([{"type": "enabled", "budget_tokens": 64}, {"type": "disabled"}, {}]),
    "chat_template_kwargs": st.sampled_from([{"enable_thinking": False}, {"enable_thinking": "?"}, {}]),
}
bodies = st.fixed_dictionaries({"messages": st.lists(message, max_size=4)}, optional=controls) | (
    st.fixed_dictionaries(
        {"prompt": texts | st.lists(texts, min_size=1, max_size=3) | st.lists(st.integers(0, 9), min_size=1)},
        optional=controls,
    )
)


@profile(max_examples=60)
@given(bodies)
def test_serving_and_training_make_the_same_vector(body: dict[str, Any]) -> None:
    """A row of a lengths file and the same body as a request: one vector, the head's columns up to rounding."""
    if not (body.get("messages") or body.get("prompt")):
        body = {"prompt": "x"}
    data = read_dataset([SourceRow("row 1", {**body, "output_tokens": 5})])
    served = features_of(data.bodies[0]).values
    trained = vectors(ARTIFACT, data)[0]
    fixed = len(FIXED_NAMES)
    np.testing.assert_array_equal(trained[:fixed], served[:fixed])
    # Kernel sums are differences of large numbers: single precision keeps three digits of them.
    np.testing.assert_allclose(trained[fixed:], served[fixed:], rtol=5e-3, atol=5e-3)


def test_the_ranker_in_service_uses_this_extractor() -> None:
    """What `predict` scores is the extractor's vector with the history so far in it, under the artifact's schema."""
    request = asked("Explain iron.", max_tokens=30)
    features, _ = RANKER.features(request)
    expected = features_of(request.body, request.api)
    assert features.schema == ARTIFACT.schema == EXTRACTOR.schema
    for name, value, other in zip(features.schema.names, features.values, expected.values, strict=True):
        assert name in HISTORY_NAMES or value == other or (math.isnan(value) and math.isnan(other)), name


def test_the_shipped_artifact_is_of_this_versions_schema() -> None:
    """Its hash covers every name, in order; the artifact says the same names."""
    schema = schema_of(ARTIFACT.head)
    assert schema.id == ARTIFACT.metadata.schema_id
    assert list(schema.names) == ARTIFACT.metadata.feature_names
    assert len(set(schema.names)) == len(schema.names)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | texts,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "content", "role", "effort", "format", "schema", "properties"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@profile(max_examples=150)
@given(
    st.dictionaries(st.sampled_from(RequestBody.__struct_encode_fields__), json_values, max_size=6),
    st.sampled_from(Api),
)
def test_every_body_that_is_accepted_has_features(fields: dict[str, Any], api: Api) -> None:
    """Whatever `decode_body` lets through: a vector of the schema's length, each value finite or absent."""
    try:
        body = decode_body(json.dumps(fields).encode())
    except msgspec.DecodeError:
        return
    request = InferenceRequest("r", api, body, 0)
    features, _ = RANKER.features(request)
    assert features.values.shape == (len(features.schema.names),)
    assert not np.isinf(features.values).any()
    assert 0 <= RANKER.score(features).quantile <= 1


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 1e300},
        {"temperature": -1e39},
        {"top_p": 1e300},
        {"sampling_params": {"temperature": 1e39}},
        {"max_tokens": 10**30},
        {"n": 2**60},
        {"min_tokens": -(2**62)},
        {"stop": ["a"] * 100_000},
        {"model": "9999b" * 1000},
    ],
)
def test_a_number_out_of_all_reason_is_no_infinity(fields: dict[str, Any]) -> None:
    """What single precision cannot hold is cut to what it can; no warning, and the other features stand."""
    features, _ = RANKER.features(asked("Hi there", **fields))
    assert not np.isinf(features.values).any()


HI = user("Hi there")
MOVES: dict[str, tuple[dict[str, Any], str]] = {
    "another turn": (user("Hi there", ("user", "One"), ("assistant", "Two")), "turn.count"),
    "what was said before": (user("Hi there", ("user", "x" * 99), ("assistant", "y")), "size.history"),
    "the last answer": (user("Hi there", ("user", "x"), ("assistant", "y" * 99)), "turn.last_assistant_chars"),
    "a system prompt": (user("Hi there", ("system", "Be brief.")), "size.system"),
    "a developer prompt": (user("Hi there", ("developer", "Be brief.")), "size.system"),
    "a system prompt of the messages API": ({**HI, "system": "Be brief."}, "size.system"),
    "instructions of the responses API": ({**HI, "instructions": "Be brief."}, "size.system"),
    "tools": ({**HI, "tools": [TOOL]}, "control.tools"),
    "tools' size": ({**HI, "tools": [TOOL]}, "control.tools_bytes"),
    "tool choice": ({**HI, "tool_choice": "required"}, "control.tool_choice"),
    "a tool's result": (user("Hi there", ("tool", "42")), "turn.tool"),
    "JSON": ({**HI, "response_format": {"type": "json_object"}}, "control.format"),
    "a schema": (
        {**HI, "response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
        "control.schema_bytes",
    ),
    "a grammar": ({**HI, "structured_outputs": {"regex": "a"}}, "control.constrained"),
    "reasoning effort": ({**HI, "reasoning_effort": "high"}, "control.reasoning"),
    "reasoning of the responses API": ({**HI, "reasoning": {"effort": "low"}}, "control.reasoning"),
    "thinking": ({**HI, "thinking": {"type": "enabled"}}, "control.reasoning"),
    "a thinking budget": ({**HI, "thinking": {"budget_tokens": 99}}, "control.reasoning_budget"),
    "thinking of the chat template": (
        {**HI, "chat_template_kwargs": {"enable_thinking": False}},
        "control.reasoning",
    ),
    "n": ({**HI, "n": 4}, "control.n"),
    "stop": ({**HI, "stop": ["\n"]}, "control.stops"),
    "max_tokens": ({**HI, "max_tokens": 9}, "control.max_tokens"),
    "max_completion_tokens": ({**HI, "max_completion_tokens": 9}, "control.max_tokens"),
    "max_output_tokens": ({**HI, "max_output_tokens": 9}, "control.max_tokens"),
    "max_new_tokens": ({**HI, "sampling_params": {"max_new_tokens": 9}}, "control.max_tokens"),
    "min_tokens": ({**HI, "min_tokens": 9}, "control.min_tokens"),
    "ignore_eos": ({**HI, "ignore_eos": True}, "control.ignore_eos"),
    "temperature": ({**HI, "temperature": 0.5}, "control.temperature"),
    "an image": (user([{"type": "text", "text": "Hi there"}, {"type": "image_url"}]), "media.images"),
    "audio": (user([{"type": "text", "text": "Hi there"}, {"type": "input_audio"}]), "media.other"),
    "Chinese": (user("你好，世界"), "count.cjk"),
    "Cyrillic": (user("Привет"), "count.greek_cyrillic"),
    "Arabic": (user("مرحبا"), "count.hebrew_arabic"),
    "Hangul": (user("안녕"), "count.hangul"),
    "Hindi": (user("नमस्ते"), "count.indic_thai"),
    "code": (user("def f(x): return x"), "cue.control"),
    "fences": (user("```\nx\n```"), "layout.fences"),
    "math": (user("Prove that $\\frac{1}{2}$"), "cue.math"),
    "a requested length": (user("Say it in 200 words"), "asked.length_tokens"),
    "a requested format": (user("Give me a markdown table"), "cue.format"),
    "the model's size": ({**HI, "model": "llama-70b"}, "model.billions"),
    "a model that reasons": ({**HI, "model": "qwq-32b"}, "model.reasons"),
    "a prompt as token ids": ({"prompt": [1, 2, 3]}, "size.token_ids"),
    "token ids of /generate": ({"input_ids": [1, 2, 3]}, "size.token_ids"),
    "several prompts": ({"prompt": ["a", "b"]}, "control.prompts"),
}  # fmt: skip


@pytest.mark.parametrize("what", MOVES)
def test_what_tells_of_the_length_moves_its_feature(what: str) -> None:
    """Each of these is seen: the feature that stands for it differs from a plain greeting's."""
    body, name = MOVES[what]
    plain, other = features_of(HI), features_of(body)
    column = column_of(plain.schema, name)
    assert not np.isnan(other.values[column])
    assert plain.values[column] != other.values[column]


def test_a_completion_is_told_from_a_chat() -> None:
    """The same prompt is continued by one route and answered by the other."""
    body = body_from_dict({"prompt": "Hi there"})
    said = [
        features_of(body, api).named()["control.completion"]
        for api in (Api.CHAT, Api.COMPLETIONS, Api.GENERATE)
    ]
    assert said == [0, 1, 1]


SAME: dict[str, dict[str, Any]] = {
    "a prompt of completions": {"prompt": "Hi there"},
    "the first of several prompts": {"prompt": ["Hi there", "Hi there"]},
    "a text part": user([{"type": "text", "text": "Hi there"}]),
    "the responses API's input": {"input": "Hi there"},
    "its input as messages": {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi there"}]}]},
    "SGLang's text": {"text": "Hi there"},
}  # fmt: skip


@pytest.mark.parametrize("dialect", SAME)
def test_every_dialect_is_read_as_the_same_text(dialect: str) -> None:
    """The same words in another API's body give the same text features and the same place in the text head."""
    plain, other = features_of(HI).named(), features_of(SAME[dialect]).named()
    for name, value in plain.items():
        if name.startswith(("text.", "count.", "cue.", "asked.", "layout.", "size.")):
            assert other[name] == value, name


def test_a_requested_number_of_words_becomes_tokens() -> None:
    """ "200 words" asks for more than "three sentences", and a digit is read as its name is."""
    asked_for = [
        features_of(user(text)).named()["asked.length_tokens"]
        for text in (
            "Explain in three sentences.",
            "Explain in 3 sentences.",
            "Explain in 200 words.",
            "Explain.",
        )
    ]
    assert asked_for[0] == asked_for[1] < asked_for[2]
    assert asked_for[3] == 0


def test_a_later_value_takes_its_named_place() -> None:
    """A self-prediction that is known later enters a copy; an unknown name is refused."""
    features = features_of(HI)
    later = features.with_values({"self.entropy": 2.5})
    assert later.named()["self.entropy"] == 2.5
    assert "self.entropy" not in features.named()
    with pytest.raises(KeyError, match=r"self\.unheard_of"):
        features.with_values({"self.unheard_of": 1.0})


def test_a_head_of_any_size_extends_the_fixed_names() -> None:
    """The schema is the fixed names and then the head's."""
    assert schema_of(small_head()).names == (*FIXED_NAMES, "text.0.left", "text.0.right")
