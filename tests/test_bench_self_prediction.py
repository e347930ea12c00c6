"""The comparison of self-prediction signals: what each engine is sent, what is read, how dense states are used."""

import numpy as np

from bench.self_prediction.candidates import CHAT, GENERATE, vllm_queries
from bench.self_prediction.compare import out_of_fold
from bench.self_prediction.sglang import HIDDEN, sglang_queries
from training.prompts import load_prompts

IDS = {"Yes": 7, "No": 9, "1": 3}


def test_every_engine_is_asked_the_same_questions() -> None:
    """Both get the plain prompt, the number, the letters and the thresholds; chosen tokens each in its own way."""
    prompt = load_prompts()[0]
    vllm = {query.name: query for query in vllm_queries(IDS, {})}
    sglang = {query.name: query for query in sglang_queries(IDS)}
    shared = set(vllm) & set(sglang)
    assert {
        "plain prompt",
        "number, first token",
        "plain prompt, chosen tokens",
        "number by grammar",
    } <= shared
    (chosen,) = vllm["plain prompt, chosen tokens"].bodies(prompt)
    assert chosen["logprob_token_ids"] == list(IDS.values())
    (chosen,) = sglang["plain prompt, chosen tokens"].bodies(prompt)
    assert chosen["token_ids_logprob"] == list(IDS.values())
    assert sglang["plain prompt, chosen tokens"].route == GENERATE
    assert {query.route for query in vllm.values()} == {CHAT}


def test_chosen_tokens_are_read_by_their_ids() -> None:
    """SGLang's own route gives ids and no texts."""
    (read,) = sglang_queries(IDS)[0].readings.values()
    signal = read([{"meta_info": {"output_token_ids_logprobs": [[[-0.5, 9, None], [-2.0, 7, None]]]}}])
    assert signal["token:No"] == -0.5
    assert signal["token:Yes"] == -2.0
    assert signal["best"] == -0.5


def test_a_hidden_state_is_read_however_deep_it_lies() -> None:
    """One state of the last token, bare or in the lists of a batch."""
    (read,) = sglang_queries(IDS)[1].readings.values()
    for state in ([0.5, -1.0], [[0.5, -1.0]], [[[0.5, -1.0]]]):
        signal = read([{"choices": [{"hidden_states": state}]}])
        assert signal == {f"{HIDDEN}0": 0.5, f"{HIDDEN}1": -1.0}


def test_a_dense_state_predicts_only_what_it_tells() -> None:
    """A ridge on many columns finds the one that tells, and learns nothing of noise by heart."""
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(120, 60))
    length = 2 * dense[:, 0] + 0.1 * rng.normal(size=120)
    nothing = np.zeros((120, 0))
    assert np.corrcoef(out_of_fold(nothing, length, 1, dense), length)[0, 1] > 0.5
    noise = rng.normal(size=120)
    assert np.corrcoef(out_of_fold(nothing, noise, 1, dense), noise)[0, 1] < 0.3
