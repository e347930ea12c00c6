"""A prediction's cost is bounded: of a prompt of any size only the head and the tail are read."""

import json
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from rankers import user

from predictor.artifact import load_artifact
from predictor.features.extractor import FeatureExtractor
from predictor.features.schema import Features
from predictor.features.view import read_view
from predictor.history import NO_HISTORY
from predictor.lightgbm_ranker import DEFAULT_ARTIFACT, LightGBMRanker
from predictor.request import Api, InferenceRequest, RequestBody, body_from_dict

ARTIFACT = load_artifact(DEFAULT_ARTIFACT)
RANKER = LightGBMRanker(ARTIFACT)
EXTRACTOR = FeatureExtractor(ARTIFACT.head)
TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
MEGABYTE = 1 << 20


def features_of(body: RequestBody | dict[str, Any], api: Api | None = None) -> Features:
    """A body's features, without any history."""
    read = body if isinstance(body, RequestBody) else body_from_dict(body)
    return EXTRACTOR.extract(read, read_view(read), NO_HISTORY, api)


@profile(max_examples=30)
@given(st.text("ab \n1.", min_size=100, max_size=120), st.text("xyz \n2?", min_size=100, max_size=120))
def test_the_middle_of_a_long_prompt_is_not_read(left: str, right: str) -> None:
    """Head and tail decide: of two prompts of one length that differ in the middle all features are equal."""
    edge = "Summarise the following report in two sentences. " * 200
    first, second = (features_of(user(edge + (middle * 2)[:100] * 100 + edge)) for middle in (left, right))
    np.testing.assert_array_equal(first.values, second.values)


def nested(megabytes: int) -> str:
    """A JSON schema of that size."""
    return json.dumps({"properties": {"a": {"enum": ["x" * (megabytes * MEGABYTE)]}}})


HUGE: dict[str, Callable[[int], dict[str, Any]]] = {
    "one turn": lambda size: user("iron " * (size * MEGABYTE // 5)),
    "a prompt": lambda size: {"prompt": "iron " * (size * MEGABYTE // 5)},
    "one word": lambda size: {"prompt": "a" * (size * MEGABYTE)},
    "nothing but line breaks": lambda size: {"prompt": "\n" * (size * MEGABYTE)},
    "the system prompt": lambda size: user("Hi", ("system", "b" * (size * MEGABYTE))),
    "an earlier turn": lambda size: user("Hi", ("user", "c" * (size * MEGABYTE)), ("assistant", "d")),
    "many turns": lambda size: user("Hi", *[("user", "e" * 1000)] * (size * 1000)),
    "many parts": lambda size: user([{"type": "text", "text": "f" * 1000}] * (size * 1000)),
    "many prompts": lambda size: {"prompt": ["g" * 1000] * (size * 1000)},
    "token ids": lambda size: {"prompt": [7] * (size * 20_000)},
    "tools": lambda size: {**user("Hi there"), "tools": [{"type": "function", "x": "h" * (size * MEGABYTE)}]},
    "many tools": lambda size: {**user("Hi there"), "tools": [TOOL] * (size * 1000)},
    "a schema": lambda size: {
        **user("Hi there"),
        "response_format": {"type": "json_schema", "json_schema": {"schema": json.loads(nested(size))}},
    },
    "the model's name": lambda size: {**user("Hi there"), "model": "7b " * (size * MEGABYTE // 3)},
}  # fmt: skip


def calls_and_memory(request: InferenceRequest) -> tuple[int, int]:
    """How many functions a prediction calls, and how many bytes it holds at most."""
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        RANKER.predict(request)
    finally:
        sys.setprofile(None)
    tracemalloc.start()
    try:
        RANKER.predict(request)
        return calls, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("where", HUGE)
def test_fifty_megabytes_cost_what_one_costs(where: str) -> None:
    """Wherever they stand in the request: the same number of calls, and under a megabyte of memory, for both."""
    one, fifty = (InferenceRequest("r", Api.CHAT, body_from_dict(HUGE[where](size)), 0) for size in (1, 50))
    RANKER.predict(one)
    calls, _ = calls_and_memory(one)
    many_calls, memory = calls_and_memory(fifty)
    assert many_calls <= calls * 1.1
    assert memory < MEGABYTE
