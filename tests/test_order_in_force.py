"""What replay chose for an artifact's traffic is what serves, wherever the operator has set nothing."""

from pathlib import Path

import pytest
from harness import CHAT, ask_raw, chat, engine_of, eventually, post, proxy_before
from rankers import change_metadata, copied

from predictor.calibration import MonotoneMap
from predictor.order import Order, WorkScale
from predictor.prediction import Prediction
from predictor.registry import Role, artifact_directory, artifact_id_of, write_pointer
from predictor.request import Api, InferenceRequest, body_from_dict
from proxy.order import ordering
from proxy.ranking import Ranking
from proxy.scheduling.policy import Quantile, Work
from proxy.settings import Settings

ENGINE = ("http://127.0.0.1:1",)
WORK = {
    "prefill_token_s": 1e-3,
    "output_token_s": 1e-3,
    "context_token_s": 0.0,
    "tokens_per_character": 0.25,
    "quantile": {"x": [0.0, 10.0], "y": [0.0, 1.0]},
}
CHOSEN = Order("work", 30.0, 0.25)


def shipped() -> Ranking:
    """The wheel's ranker."""
    ranking = Ranking()
    assert ranking.load()
    return ranking


def published(state: Path, **order: object) -> str:
    """Publish a copy of the shipped artifact with a recommendation; gives its id."""
    source = change_metadata(copied(state / "source"), order=order)
    artifact_id = artifact_id_of(source)
    home = artifact_directory(state, artifact_id)
    home.parent.mkdir(parents=True, exist_ok=True)
    source.rename(home)
    write_pointer(state, Role.CHAMPION, artifact_id)
    return artifact_id


@pytest.mark.parametrize(
    ("given", "recommended", "expected", "chosen_by"),
    [
        ({}, None, ("quantile", 120.0, 0.0), ("default", "default", "default")),
        ({}, CHOSEN, ("work", 30.0, 0.25), ("artifact", "artifact", "artifact")),
        ({"max_overtake": 5.0}, CHOSEN, ("work", 5.0, 0.25), ("artifact", "settings", "artifact")),
        ({"policy": "fcfs"}, CHOSEN, ("fcfs", 30.0, 0.25), ("settings", "artifact", "artifact")),
        ({"lane_share": 0.0}, CHOSEN, ("work", 30.0, 0.0), ("artifact", "artifact", "settings")),
        ({}, Order("fcfs", 0.0), ("fcfs", 0.0, 0.0), ("artifact", "artifact", "artifact")),
        (
            {"max_overtake": 5.0},
            Order("fcfs", 0.0),
            ("quantile", 5.0, 0.0),
            ("default", "settings", "artifact"),
        ),
    ],
)
def test_the_operator_beats_the_artifact_and_that_the_defaults(
    given: dict[str, object],
    recommended: Order | None,
    expected: tuple[object, ...],
    chosen_by: tuple[str, ...],
) -> None:
    """Each of policy, D and lane share by itself; a D that is set is not undone by a recommended FCFS."""
    found = ordering(Settings(engine=ENGINE, **given), recommended)  # type: ignore[arg-type]
    assert (found.policy, found.max_overtake_s, found.lane_share) == expected
    assert tuple(found.chosen_by.values()) == chosen_by


async def test_a_published_choice_holds_and_a_rollback_takes_it_back(tmp_path: Path) -> None:
    """Policy, D and lane share of the champion, said in status; the defaults again when nothing is published."""
    champion = published(tmp_path, policy="work", max_overtake_s=30.0, lane_share=0.25, work=WORK)
    async with (
        engine_of([5]) as engine,
        proxy_before(engine.url, state=tmp_path, estimator=shipped()) as headway,
    ):
        status = headway.status()
        assert (status.artifact, status.policy, status.max_overtake_s) == (champion, "work", 30.0)
        assert set(status.order.chosen_by.values()) == {"artifact"}
        assert [tier.queue.lane_share for tier in headway._scheduler.tiers] == [0.25] * len(
            headway._scheduler.tiers
        )
        got = await ask_raw(headway, post(CHAT, chat()))
        assert got.header("x-headway-policy") == "work"
        write_pointer(tmp_path, Role.CHAMPION, None)
        headway._learning.wake()
        await eventually(lambda: headway.status().artifact != champion)
        status = headway.status()
        assert (status.policy, status.max_overtake_s, status.order.lane_share) == ("quantile", 120.0, 0.0)


async def test_what_the_operator_set_stays(tmp_path: Path) -> None:
    """An explicit D is not touched by a new artifact."""
    published(tmp_path, policy="work", max_overtake_s=30.0, lane_share=0.25, work=WORK)
    async with (
        engine_of([5]) as engine,
        proxy_before(engine.url, state=tmp_path, estimator=shipped(), max_overtake=7.0) as headway,
    ):
        status = headway.status()
        assert (status.policy, status.max_overtake_s) == ("work", 7.0)
        assert status.order.chosen_by == {
            "policy": "artifact",
            "max_overtake_s": "settings",
            "lane_share": "artifact",
        }


def test_a_prompt_weighs_where_work_is_known(tmp_path: Path) -> None:
    """Of two prompts the longer one has the later place by work, whatever is predicted of the answers."""
    champion = published(tmp_path, policy="work", max_overtake_s=30.0, work=WORK)
    ranking = Ranking()
    assert ranking.load(artifact_directory(tmp_path, champion))
    places = []
    for text in ("Sum up: a", "Sum up: " + "word " * 4_000):
        body = body_from_dict({"messages": [{"role": "user", "content": text}], "max_tokens": 3})
        prediction = ranking.estimate(InferenceRequest("r", Api.CHAT, body, 0)).prediction
        assert prediction.work is not None
        places.append(prediction.work)
    assert places[1] > places[0] + 0.4


def test_work_orders_by_work_where_it_is_known_and_else_by_length() -> None:
    """The key is arrival plus D times the place, of work or, where nobody measured work, of the length."""
    known = Prediction(0.1, 10.0, 5.0, 20.0, 0.9)
    assert Work(100).key_us(1_000, known) == 1_090
    assert Work(100).key_us(1_000, Prediction(0.1, 10.0, 5.0, 20.0)) == 1_010
    assert Quantile(100).key_us(1_000, known) == 1_010
    assert Work(100).overtake_bound_us == 100


def test_a_scale_places_by_prompt_and_answer() -> None:
    """1 ms per token of either kind: 4,000 + 1,000 tokens are 5 s, the middle of the map."""
    scale = WorkScale(1e-3, 1e-3, 0.0, 0.25, MonotoneMap([0.0, 10.0], [0.0, 1.0]))
    assert scale.place(4_000, 1_000) == pytest.approx(0.5)
    assert scale.place(1e9, 1e9) == 1.0
