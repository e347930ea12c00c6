"""The candidate queries that only SGLang takes: the prompt's last hidden state, and chosen tokens by `/generate`."""

from collections.abc import Sequence
from typing import Any, Final

from bench.self_prediction.candidates import (
    GENERATE,
    NUMBER_QUESTION,
    Query,
    Signal,
    asked,
    asked_queries,
    entropy_and_best,
    stated,
    stated_and_expected,
)

# A number names a column of the hidden state: too many for trees, see `compare`.
HIDDEN: Final = "hidden:"
FLAGS: Final = ("--return-hidden-states-mode", "last")


def sglang_queries(ids: dict[str, int]) -> tuple[Query, ...]:
    """Every candidate on SGLang; `ids` are its tokens of the openings."""
    by_id = {token: text for text, token in ids.items()}

    def chosen(answers: Sequence[dict[str, Any]]) -> Signal:
        places = answers[0]["meta_info"]["output_token_ids_logprobs"][0]
        tokens = {by_id[token]: value for value, token, _ in places}
        return {f"token:{text}": value for text, value in tokens.items()} | entropy_and_best(tokens)

    sampling = {"max_new_tokens": 1, "temperature": 0}
    listed = {"return_logprob": True, "token_ids_logprob": list(ids.values())}
    return (
        Query(
            "plain prompt, chosen tokens",
            asked("", bare=True, sampling_params=sampling, **listed),
            {"plain, chosen tokens": chosen},
            route=GENERATE,
        ),
        Query(
            "plain prompt, last hidden state",
            asked("", bare=True, temperature=0, max_tokens=1, return_hidden_states="last"),
            {"last hidden state": _hidden},
        ),
        Query(
            "number by grammar",
            asked(NUMBER_QUESTION, max_tokens=4, regex="[1-9][0-9]{0,3}"),
            {"stated number": stated, "expectation over digits": stated_and_expected},
        ),
        *asked_queries(),
    )


def _hidden(answers: Sequence[dict[str, Any]]) -> Signal:
    state = answers[0]["choices"][0]["hidden_states"]
    while isinstance(state[0], list):
        state = state[0]
    return {f"{HIDDEN}{number}": value for number, value in enumerate(state)}
