"""Length statistics that are prequential: of who asks what of which model, and only of what had finished."""

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from rankers import asked

from predictor.artifact import load_artifact
from predictor.features.extractor import FeatureExtractor
from predictor.features.schema import column_of
from predictor.features.view import read_view
from predictor.history import (
    HISTORY_NAMES,
    LEVELS,
    NO_HISTORY,
    History,
    HistoryKey,
    LengthStats,
    history_key,
)
from predictor.lightgbm_ranker import DEFAULT_ARTIFACT, LightGBMRanker
from predictor.request import InferenceRequest
from training.simulate_tenants import Arrivals, replay_history

STATISTICS = tuple(name.rsplit(".", 1)[1] for name in HISTORY_NAMES[: len(HISTORY_NAMES) // len(LEVELS)])


def key_of(prompt: str = "Hello", tenant: str = "default", **fields: Any) -> HistoryKey:
    """The history key of a chat request."""
    request = asked(prompt, **fields)
    return history_key(tenant, request.body.model, read_view(request.body))


def known(history: History, key: HistoryKey) -> dict[str, float]:
    """The history features of a key, by name."""
    return dict(zip(HISTORY_NAMES, history.features(key).tolist(), strict=True))


keys = st.builds(
    lambda tenant, system, opening: key_of(
        messages=[
            {"role": "system", "content": system},
            {"role": "user", "content": f"{opening} and so forth"},
        ],
        tenant=tenant,
    ),
    st.sampled_from(["a", "b"]),
    st.sampled_from(["", "Be brief."]),
    st.sampled_from(["Say", "Tell"]),
)
rows = st.lists(
    st.tuples(keys, st.integers(0, 5000), st.floats(0, 100), st.floats(0.1, 50), st.booleans()),
    min_size=1,
    max_size=25,
)


@profile(max_examples=60)
@given(rows, st.data())
def test_no_label_that_comes_later_changes_a_feature(
    given_rows: list[tuple[HistoryKey, int, float, float, bool]], data: st.DataObject
) -> None:
    """Whatever becomes of the requests that have not finished when one arrives, its features stay."""
    key, label, arrival, service, censored = (list(column) for column in zip(*given_rows, strict=True))
    arrivals = Arrivals(np.array(arrival), np.array(arrival) + np.array(service))
    row = data.draw(st.integers(0, len(key) - 1))
    later = [
        data.draw(st.integers(0, 5000)) if finish > arrival[row] else tokens
        for finish, tokens in zip(arrivals.finish_s, label, strict=True)
    ]
    cut = np.array(censored)
    first = replay_history(key, np.array(label, dtype=float), cut, arrivals)[row]
    again = replay_history(key, np.array(later, dtype=float), cut, arrivals)[row]
    np.testing.assert_array_equal(first, again)


@profile(max_examples=40)
@given(rows)
def test_a_cut_answer_teaches_nothing(given_rows: list[tuple[HistoryKey, int, float, float, bool]]) -> None:
    """A lower bound counted as a length would teach that long answers are short: its number changes no feature."""
    key, label, arrival, service, censored = (list(column) for column in zip(*given_rows, strict=True))
    arrivals = Arrivals(np.array(arrival), np.array(arrival) + np.array(service))
    cut = np.array(censored)
    first = replay_history(key, np.array(label, dtype=float), cut, arrivals)
    again = replay_history(key, np.where(cut, 1.0, np.array(label, dtype=float)), cut, arrivals)
    np.testing.assert_array_equal(first, again)


@given(st.lists(st.integers(0, 100_000), min_size=1, max_size=60))
def test_the_statistics_are_what_they_are_called(tokens: list[int]) -> None:
    """Count, mean, spread and last of log(1 + tokens), the recent mean between the least and the most."""
    stats = LengthStats()
    for number, one in enumerate(tokens):
        stats.add(one, float(number))
    logs = np.log1p(np.array(tokens, dtype=float))
    values = dict(zip(STATISTICS, stats.values(), strict=True))
    assert values["count"] == pytest.approx(math.log1p(len(tokens)))
    assert values["mean"] == pytest.approx(logs.mean(), abs=1e-9)
    assert values["last"] == pytest.approx(logs[-1])
    assert logs.min() - 1e-9 <= values["recent"] <= logs.max() + 1e-9
    if len(tokens) == 1:
        assert math.isnan(values["spread"])
    else:
        assert values["spread"] == pytest.approx(logs.std(ddof=1), abs=1e-6)


def test_a_changed_workload_is_followed() -> None:
    """A thousand long answers after a thousand short ones: the mean has gone over to the long ones."""
    stats = LengthStats()
    for number in range(2000):
        stats.add(10 if number < 1000 else 1000, float(number))
    values = dict(zip(STATISTICS, stats.values(), strict=True))
    assert values["mean"] == pytest.approx(math.log1p(1000), abs=0.1)
    assert values["recent"] == pytest.approx(math.log1p(1000), abs=1e-6)
    assert 0 <= values["spread"] < 0.5


SAID = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is iron made of?"}]
SAME_LEVELS = {
    "the same again": (key_of(messages=SAID), LEVELS),
    "another prompt": (
        key_of(messages=[SAID[0], {"role": "user", "content": "Why?"}]),
        ("system", "tenant", "model"),
    ),
    "the same opening": (
        key_of(messages=[SAID[0], {"role": "user", "content": "What is iron made for?"}]),
        ("system", "opening", "tenant", "model"),
    ),
    "another system prompt": (
        key_of(messages=[{"role": "system", "content": "Be long."}, SAID[1]]),
        ("tenant", "model"),
    ),
    "a system prompt that differs beyond its opening": (
        key_of(messages=[{"role": "system", "content": "Be brief." + " " * 900}, SAID[1]]),
        ("tenant", "model"),
    ),
    "another tenant": (key_of(messages=SAID, tenant="other"), ("model",)),
    "another model": (key_of(messages=SAID, model="other"), ()),
}


@pytest.mark.parametrize("who", SAME_LEVELS)
def test_each_level_is_kept_apart(who: str) -> None:
    """What was learned of one request is known of another exactly at the levels they share."""
    other, shared = SAME_LEVELS[who]
    history = History()
    history.observe(key_of(messages=SAID), 30, 1.0)
    found = known(history, other)
    assert tuple(level for level in LEVELS if found[f"history.{level}.count"] > 0) == shared


def test_nothing_known_is_said_to_be_nothing() -> None:
    """A count of zero and no statistics: not a length of zero tokens."""
    found = known(History(), key_of())
    assert all(value == 0 if name.endswith(".count") else math.isnan(value) for name, value in found.items())
    assert np.isnan(NO_HISTORY).all()


def test_no_text_enters_a_key() -> None:
    """Keys are stored and shared: prompts are in them as hashes only."""
    key = key_of(messages=[{"role": "system", "content": "xylophone"}, {"role": "user", "content": "canary"}])
    assert "xylophone" not in str(key)
    assert "canary" not in str(key)


def test_keys_are_bounded_in_number_and_size() -> None:
    """The least recently finished are forgotten first; a tenant's or model's name of a megabyte is cut."""
    history = History(max_keys=20)
    for number in range(100):
        history.observe(key_of(f"prompt {number}"), 10, float(number))
    assert len(history) == 20
    assert known(history, key_of("prompt 99"))["history.prompt.count"] > 0
    assert known(history, key_of("prompt 1"))["history.prompt.count"] == 0
    assert known(history, key_of("prompt 1"))["history.tenant.count"] > 0
    huge = key_of("x" * 10**6, tenant="t" * 10**6, model="m" * 10**6)
    assert sum(map(len, huge.levels)) < 5_000


@given(rows)
def test_what_changed_restores_what_was(given_rows: list[tuple[HistoryKey, int, float, float, bool]]) -> None:
    """Saved piece by piece, written as JSON and read again after a restart: every feature is the same."""
    before, saved = History(), dict[str, LengthStats]()
    for number, (key, tokens, _, _, save) in enumerate(given_rows):
        before.observe(key, tokens, float(number))
        if save:
            saved.update(before.drain_updates())
    saved.update(before.drain_updates())
    assert not before.drain_updates()
    written = msgspec.json.encode(list(saved.items()))
    after = History()
    after.restore(msgspec.json.decode(written, type=list[tuple[str, LengthStats]]))
    for key, *_ in given_rows:
        np.testing.assert_array_equal(before.features(key), after.features(key))


def test_of_two_memories_the_later_is_kept() -> None:
    """What a neighbour learned after us replaces ours; what it learned before does not."""
    key = key_of()
    ours, theirs = History(), History()
    ours.observe(key, 10, 5.0)
    theirs.observe(key, 500, 9.0)
    newer, older = theirs.drain_updates(), ours.drain_updates()
    ours.restore(newer)
    theirs.restore(older)
    np.testing.assert_array_equal(ours.features(key), theirs.features(key))
    assert known(ours, key)["history.prompt.last"] == pytest.approx(math.log1p(500), abs=1e-5)


def test_what_was_restored_is_not_sent_back() -> None:
    """Proxies that share a history do not echo each other for ever."""
    ours, theirs = History(), History()
    ours.observe(key_of(), 10, 1.0)
    theirs.restore(ours.drain_updates())
    assert not theirs.drain_updates()
    assert len(theirs) == len(LEVELS)


def test_restoring_keeps_the_bound() -> None:
    """A saved history that is larger than this process may hold does not grow past the bound."""
    source = History()
    for number in range(50):
        source.observe(key_of(f"prompt {number}"), 10, float(number))
    small = History(max_keys=7)
    small.restore(source.drain_updates())
    assert len(small) == 7


def test_the_ranker_learns_and_the_next_one_remembers() -> None:
    """An answer that ended teaches; the history outlives the artifact, so a reload forgets nothing."""
    artifact = load_artifact(DEFAULT_ARTIFACT)
    ranker = LightGBMRanker(artifact)
    request = asked("Tell me of iron")
    features, key = ranker.features(request)
    column = column_of(features.schema, "history.prompt.last")
    assert math.isnan(features.values[column])
    ranker.observe(key, 77, 1.0)
    again = LightGBMRanker(artifact, ranker.history).features(request)[0]
    assert again.values[column] == pytest.approx(math.log1p(77), abs=1e-5)


def test_history_outweighs_the_words() -> None:
    """The shipped ranker knows how to use it: a question that was always answered at length goes behind an essay
    that always came in two words."""
    ranker = LightGBMRanker(load_artifact(DEFAULT_ARTIFACT))
    said: list[float] = []
    for prompt, tokens in (("Write an essay about iron.", 2), ("Is it?", 1500)):
        request: InferenceRequest = asked(prompt)
        ranker.history = History()
        key = ranker.features(request)[1]
        for number in range(20):
            ranker.observe(key, tokens, float(number))
        said.append(ranker.predict(request).quantile)
    assert said[0] < said[1]


def test_history_takes_its_columns_and_no_other() -> None:
    """With and without history, every other feature of a request is the same."""
    extractor = FeatureExtractor(load_artifact(DEFAULT_ARTIFACT).head)
    body = asked("Hello").body
    values = np.arange(len(HISTORY_NAMES), dtype=np.float32)
    plain = extractor.extract(body, read_view(body), NO_HISTORY)
    told = extractor.extract(body, read_view(body), values)
    for name, before, after in zip(plain.schema.names, plain.values, told.values, strict=True):
        if name in HISTORY_NAMES:
            assert after == values[HISTORY_NAMES.index(name)]
        else:
            assert before == after or (math.isnan(before) and math.isnan(after)), name
