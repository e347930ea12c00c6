"""What recalibration does to a prediction: tokens follow the group, places only what sets it apart."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.calibration import Calibration, MonotoneMap
from predictor.recalibration import Bias
from predictor.request import Api, InferenceRequest, RequestBody, body_from_dict
from proxy.ranking import Ranking

MAP = Calibration(
    quantile=MonotoneMap([0.0, 1.0, 2.0], [0.0, 0.5, 1.0]),
    tokens=MonotoneMap([0.0, 1.0, 2.0], [10.0, 100.0, 1000.0]),
    p10_tokens=MonotoneMap([0.0], [1.0]),
    p90_tokens=MonotoneMap([0.0], [2000.0]),
)
LOGS = st.floats(-math.log(8), math.log(8))


def asked(text: str, tenant: str = "default", at_s: float = 1.0) -> InferenceRequest:
    """A chat request of a tenant."""
    body: RequestBody = body_from_dict({"messages": [{"role": "user", "content": text}]})
    return InferenceRequest("r", Api.CHAT, body, int(at_s * 1e6), tenant=tenant)


def ranking() -> Ranking:
    """The wheel's."""
    found = Ranking()
    assert found.load()
    return found


def answered(ranker: Ranking, tenant: str, factor: float, count: int = 60) -> None:
    """Answers of a tenant that are all so many times as long as the artifact expects."""
    for number in range(count):
        estimate = ranker.estimate(asked(f"Question {number} of many.", tenant))
        assert estimate.scored is not None
        ranker.learn(estimate, round(factor * estimate.scored.tokens), 1.0)


def test_a_fresh_ranking_says_what_its_artifact_says() -> None:
    """Without answers prediction and score are one and the same."""
    estimate = ranking().estimate(asked("Tell me a story."))
    assert estimate.prediction is estimate.scored


def test_a_common_factor_changes_tokens_and_no_place() -> None:
    """Where everybody's answers are longer than expected, everybody's tokens grow and the order stays."""
    ranker = ranking()
    for tenant in ("a", "b"):
        answered(ranker, tenant, 3.0)
    estimate = ranker.estimate(asked("Question 5 of many.", "a"))
    assert estimate.scored is not None
    assert estimate.prediction.tokens == pytest.approx(3 * estimate.scored.tokens, rel=0.25)
    assert estimate.prediction.quantile == pytest.approx(estimate.scored.quantile, abs=0.02)


def test_a_tenant_apart_from_the_others_changes_places() -> None:
    """Of two tenants with the same prompts the one whose answers turn out longer goes behind the other."""
    ranker = ranking()
    answered(ranker, "long", 4.0)
    answered(ranker, "short", 0.4)
    later, sooner = (ranker.estimate(asked("Something new.", tenant)) for tenant in ("long", "short"))
    assert later.scored is not None
    assert sooner.scored is not None
    assert sooner.prediction.quantile < sooner.scored.quantile
    assert later.prediction.quantile > later.scored.quantile


def test_an_answer_of_another_artifact_is_no_lesson_for_this_one() -> None:
    """What an artifact expected that serves no longer says nothing of the one that does."""
    ranker = ranking()
    estimate = ranker.estimate(asked("Tell me a story."))
    other = ranking()
    other.take(other._ranker)  # type: ignore[arg-type]
    other.learn(type(estimate)(estimate.prediction, artifact="0" * 16, scored=estimate.scored,
                               history_key=estimate.history_key), 9999, 1.0)  # fmt: skip
    assert len(other.recalibration) == 0


@given(st.floats(-1, 3), LOGS, LOGS)
def test_places_by_tokens_agree_with_the_artifacts_own(score: float, group: float, everybody: float) -> None:
    """The map from tokens to places gives each score the place it has, and never falls as tokens grow."""
    places = MAP.quantile_by_tokens()
    predicted = MAP.predict(score)
    assert places(predicted.tokens) == pytest.approx(predicted.quantile)
    bias = Bias(group, everybody)
    more, fewer = sorted((predicted.tokens, predicted.tokens * math.exp(bias.group)))
    assert places(more) <= places(fewer)


def rising(least: float, most: float) -> st.SearchStrategy[MonotoneMap]:
    """Any monotone map with values between two bounds."""
    sizes = st.integers(1, 12)
    return sizes.flatmap(
        lambda size: st.builds(
            MonotoneMap,
            st.lists(st.floats(-5, 5), min_size=size, max_size=size, unique=True).map(sorted),
            st.lists(st.floats(least, most), min_size=size, max_size=size).map(sorted),
        )
    )


@given(rising(0, 1), rising(0, 1e7))
def test_any_calibration_has_places_by_tokens(quantile: MonotoneMap, tokens: MonotoneMap) -> None:
    """Whatever maps an artifact brings, rounding and flat stretches included, they can be joined."""
    made = Calibration(quantile=quantile, tokens=tokens, p10_tokens=tokens, p90_tokens=tokens)
    assert made.quantile_by_tokens().y[-1] == pytest.approx(max(quantile.y))


def test_scores_that_expect_equally_many_tokens_make_a_map_all_the_same() -> None:
    """Flat stretches of an artifact's maps are no error."""
    flat = Calibration(
        quantile=MonotoneMap([0.0, 1.0, 2.0], [0.0, 0.5, 1.0]),
        tokens=MonotoneMap([0.0, 5.0], [50.0, 50.0]),
        p10_tokens=MAP.p10_tokens,
        p90_tokens=MAP.p90_tokens,
    )
    assert flat.quantile_by_tokens()(50.0) == 1.0
