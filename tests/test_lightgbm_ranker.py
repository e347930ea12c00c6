"""The ranker of the request path: one prediction for every body, and serving goes on whatever becomes of it."""

import logging
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from rankers import BOOSTER, asked, change_metadata, copied, edit

from predictor.errors import ArtifactError
from predictor.features.schema import Features
from predictor.lightgbm_ranker import DEFAULT_ARTIFACT, LightGBMRanker
from proxy.ranking import NEUTRAL, Ranking

RANKER = LightGBMRanker.load()


@profile(max_examples=60)
@given(st.lists(st.floats(width=32), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_any_numbers_give_a_prediction(values: list[float], pick: object) -> None:
    """NaN, infinite or absurd features: a quantile in [0, 1] and tokens that are numbers, in order."""
    row = np.resize(np.array(values, dtype=np.float32), len(RANKER.artifact.schema.names))
    one = RANKER.score(Features(schema=RANKER.artifact.schema, values=row))
    assert 0 <= one.quantile <= 1
    assert 0 <= one.p10_tokens <= one.p90_tokens < math.inf
    assert 0 <= one.tokens < math.inf


def test_the_same_request_has_the_same_prediction() -> None:
    """Two rankers of one artifact, as two proxies have, agree to the last digit, and asking changes nothing."""
    other = LightGBMRanker.load()
    first = RANKER.predict(asked("Explain iron"))
    assert RANKER.predict(asked("Explain iron")) == first == other.predict(asked("Explain iron"))


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("Answer with one word: is iron a metal?", "Write a detailed essay about the history of iron."),
        ("Reply only yes or no: is 7 a prime?", "Explain step by step how to build a web server in Python."),
        ("What is the capital of France? One word.", "Write a short story of five paragraphs about a fox."),
    ],
)
def test_a_first_start_tells_short_from_long(short: str, long: str) -> None:
    """The wheel's ranker, without any history: a one-word question goes before an essay."""
    assert RANKER.predict(asked(short)).quantile < RANKER.predict(asked(long)).quantile
    assert RANKER.predict(asked(short)).tokens < RANKER.predict(asked(long)).tokens


def test_the_artifact_has_a_name_to_be_called_by() -> None:
    """For the header, the log and the metrics."""
    assert RANKER.artifact_id == RANKER.artifact.id
    assert RANKER.artifact_id.isascii()


def damaged(directory: Path, how: str) -> Path:
    """An artifact that cannot serve."""
    if how == "missing":
        return directory
    copied(directory)
    if how == "empty":
        shutil.rmtree(directory)
        directory.mkdir()
    elif how == "wrong schema":
        change_metadata(directory, schema_id="0" * 16)
    elif how == "wrong bytes":
        (directory / BOOSTER).write_bytes(b"tree")
    elif how == "no model":
        edit(directory, BOOSTER, lambda _: b"no model")
    return directory


HOWS = ["missing", "empty", "wrong schema", "wrong bytes", "no model"]


@pytest.mark.parametrize("how", HOWS)
def test_a_broken_artifact_is_an_error_of_one_line(how: str, tmp_path: Path) -> None:
    """It names the directory and says what is wrong."""
    directory = damaged(tmp_path / "artifact", how)
    with pytest.raises(ArtifactError) as caught:
        LightGBMRanker.load(directory)
    assert str(directory) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", HOWS)
def test_the_last_good_ranker_stays_in_service(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A reload that fails is one line in the log; requests are ranked as before."""
    ranking = Ranking()
    assert ranking.load(DEFAULT_ARTIFACT)
    before = ranking.estimate(asked("Explain iron")).prediction
    with caplog.at_level(logging.ERROR):
        assert not ranking.load(damaged(tmp_path / "artifact", how))
    assert len(caplog.records) == 1
    assert ranking.estimate(asked("Explain iron")).prediction == before != NEUTRAL
    assert ranking.artifact_id == RANKER.artifact_id


def test_with_no_ranker_at_all_the_order_is_first_come_first_served(tmp_path: Path) -> None:
    """Not even the wheel's can be read: every request has the same place, and nothing is raised."""
    ranking = Ranking()
    assert not ranking.load(tmp_path)
    short, long = (ranking.estimate(asked(text)) for text in ("Yes or no?", "Write an essay"))
    assert short.prediction == long.prediction == NEUTRAL
    ranking.learn(short, 10, 1.0)
    assert ranking.artifact_id == "none"


def test_a_ranker_that_fails_costs_its_request_the_order_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neutral for the one it failed on, counted, said once, and ranked again as soon as it works again."""
    ranking = Ranking()
    assert ranking.load(DEFAULT_ARTIFACT)
    good = ranking.estimate(asked("Explain iron"))
    with monkeypatch.context() as patched:
        patched.setattr(LightGBMRanker, "score", lambda *_: 1 / 0)
        with caplog.at_level(logging.ERROR):
            assert [ranking.estimate(asked()).prediction for _ in range(5)] == [NEUTRAL] * 5
    assert ranking.failures == 5
    assert len(caplog.records) == 1
    assert ranking.estimate(asked("Explain iron")).prediction == good.prediction


def test_a_prediction_out_of_range_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN or negative tokens never reach the scheduler: it would sort by them."""
    ranking = Ranking()
    assert ranking.load(DEFAULT_ARTIFACT)
    for field, value in (("quantile", math.nan), ("tokens", -1.0), ("p90_tokens", math.inf)):
        fields = {"quantile": 0.5, "tokens": 1.0, "p10_tokens": 1.0, "p90_tokens": 1.0, field: value}
        bad = type(NEUTRAL)(**fields)
        monkeypatch.setattr(LightGBMRanker, "score", lambda *_, one=bad: one)
        assert ranking.estimate(asked()).prediction == NEUTRAL
