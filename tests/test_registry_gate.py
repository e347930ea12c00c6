"""The gate opens for what is better beyond chance, on both counts, and says why it stays shut."""

import numpy as np

from training.registry.gate import Showing, difference_interval, judge, reason

RNG = np.random.default_rng(5)
LABEL = RNG.lognormal(4, 1, 400)
GOOD = np.log(LABEL) + 0.5 * RNG.standard_normal(400)
APART = np.arange(400).astype(str)
POOR = np.log(LABEL) + 3.0 * RNG.standard_normal(400)


def test_a_better_ranker_passes() -> None:
    """Higher tau-b beyond the interval and more gained in replay."""
    (rival,) = judge(LABEL, APART, Showing("ours", GOOD, 2.0), [Showing("default", POOR, 1.0)], 0)
    assert rival.better
    assert rival.interval[0] > 0
    assert "better than the default" in reason([rival], 2.0)


def test_chance_does_not_pass() -> None:
    """The same scores: the interval is zero, and the reason says that nothing was shown."""
    (rival,) = judge(LABEL, APART, Showing("ours", GOOD, 2.0), [Showing("champion", GOOD, 1.0)], 0)
    assert not rival.better
    assert rival.interval == (0.0, 0.0)
    assert "not shown to rank better than the champion" in reason([rival], 2.0)


def test_ranking_better_without_gaining_does_not_pass() -> None:
    """What ranks better but gains nothing in the queue is not worth a change."""
    (rival,) = judge(LABEL, APART, Showing("ours", GOOD, 0.0), [Showing("default", POOR, 0.0)], 0)
    assert not rival.better
    assert "gains no more in replay" in reason([rival], 0.0)


def test_every_rival_must_be_beaten() -> None:
    """Better than the default is not enough where the champion is as good."""
    rivals = judge(
        LABEL,
        APART,
        Showing("ours", GOOD, 2.0),
        [Showing("champion", GOOD, 2.0), Showing("default", POOR, 1.0)],
        0,
    )
    assert [rival.better for rival in rivals] == [False, True]
    assert "champion" in reason(rivals, 2.0)


def test_the_interval_is_paired() -> None:
    """Two rankers that err alike are told apart far better than the spread of either would let expect."""
    slightly = GOOD + 0.05 * RNG.standard_normal(400)
    low, high = difference_interval(LABEL, APART, GOOD, slightly, np.random.default_rng(0))
    assert high - low < 0.05


def test_many_requests_of_one_prompt_prove_no_more_than_it_alone() -> None:
    """Twenty prompts, twenty times each, on some of which we are right by luck: not shown to rank better."""
    label, prompt = np.repeat(LABEL[:20], 20), np.repeat(APART[:20], 20)
    ours, theirs = np.repeat(GOOD[:20], 20), np.repeat(np.log(LABEL[:20]) + 0.7 * RNG.standard_normal(20), 20)
    ours = ours + 1e-6 * RNG.standard_normal(400)
    low, high = difference_interval(label, np.arange(400).astype(str), ours, theirs, np.random.default_rng(0))
    fewest, most = difference_interval(label, prompt, ours, theirs, np.random.default_rng(0))
    assert most - fewest > 2 * (high - low)
