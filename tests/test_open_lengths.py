"""The shipped ranker's teachers: training rows alone, one typical length per prompt."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from training.default_artifact import read_group
from training.open_lengths import BENCHMARK, GROUPS, held_out_prompts, prompt_effects, typical_lengths

PROMPTS = [f"Prompt number {number}, please." for number in range(24)]


def rows(model: str, times: float, **fields: Any) -> list[dict[str, Any]]:
    """A model's answers: each prompt's own length times how much this model says."""
    return [
        {
            "model": model, "prompt": prompt, "output_tokens": int(times * (20 + 10 * number)), "split": "train",
            "kind": "chat", "hidden_reasoning": False, **fields,
        }
        for number, prompt in enumerate(PROMPTS)
    ]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Small files under the names of the open ones."""
    for names in GROUPS.values():
        for name in names:
            write(tmp_path / name, [*rows("terse", 1), *rows("wordy", 4)])
    return tmp_path


def write(path: Path, given_rows: list[dict[str, Any]]) -> None:
    """A Parquet file."""
    pq.write_table(pa.Table.from_pylist(given_rows), path)


def test_one_length_stands_for_all_models(folder: Path) -> None:
    """Between what the terse and the wordy model say, in the order that both agree on, each prompt once."""
    found = typical_lengths(folder, "exam", 1)
    assert sorted(found.prompts) == sorted(PROMPTS)
    by_prompt = dict(zip(found.prompts, found.tokens.tolist(), strict=True))
    ordered = [by_prompt[prompt] for prompt in PROMPTS]
    assert ordered == sorted(ordered)
    for number, tokens in enumerate(ordered):
        assert 20 + 10 * number <= tokens <= 4 * (20 + 10 * number)


@pytest.mark.parametrize(
    "fields",
    [{"split": "heldout"}, {"kind": "reasoning"}, {"hidden_reasoning": True}, {"output_tokens": None}],
)
def test_other_rows_teach_nothing(folder: Path, fields: dict[str, Any]) -> None:
    """Held-out rows above all; models that think aloud or in secret, and answers that nobody counted."""
    before = typical_lengths(folder, "exam", 1)
    others = [row | fields for row in rows("other", 50)]
    others += [{**row, "prompt": f"Only here: {row['prompt']}"} for row in others]
    write(folder / GROUPS["exam"][0], [*rows("terse", 1), *rows("wordy", 4), *others])
    after = typical_lengths(folder, "exam", 1)
    assert after.prompts == before.prompts
    np.testing.assert_array_equal(after.tokens, before.tokens)


def test_what_the_benchmark_holds_out_teaches_nothing(folder: Path) -> None:
    """Even where another file has it among its training rows; the benchmark's training prompts do teach."""
    for number, name in enumerate(BENCHMARK):
        lines = [
            {"prompt": PROMPTS[number], "output_tokens": 1, "split": "train"},
            {"prompt": PROMPTS[number + 2], "output_tokens": 1, "split": "heldout"},
        ]
        (folder / name).write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    held = held_out_prompts(folder)
    assert held == set(PROMPTS[2:4])
    group = read_group(folder, "exam", held)
    assert {body.prompt for body in group.data.bodies} == set(PROMPTS) - held
    assert len(group.aspects) == len(group.data)


def test_a_model_that_answered_few_prompts_is_not_asked(folder: Path) -> None:
    """Its own level cannot be told from its prompts'."""
    before = typical_lengths(folder, "exam", 1)
    write(folder / GROUPS["exam"][0], [*rows("terse", 1), *rows("wordy", 4), *rows("rare", 90)[:5]])
    np.testing.assert_array_equal(typical_lengths(folder, "exam", 1).tokens, before.tokens)


@profile(max_examples=20)
@given(st.lists(st.floats(0, 8), min_size=40, max_size=40), st.integers(0, 2**32))
def test_who_answered_a_prompt_does_not_decide_its_length(levels: list[float], seed: int) -> None:
    """Where each prompt was answered by some of the models only, the order of the prompts' own levels comes out."""
    rng = np.random.default_rng(seed)
    effect = np.sort(levels)
    models = {"terse": -1.0, "plain": 0.0, "wordy": 2.0}
    answers = [
        (model, str(prompt), float(effect[prompt] + level))
        for model, level in models.items()
        for prompt in range(40)
        if model == "plain" or rng.random() < 0.7
    ]
    found = prompt_effects(answers)
    shift = found["0"] - effect[0]
    np.testing.assert_allclose([found[str(p)] - shift for p in range(40)], effect, atol=0.35)
