"""The shipped prompts: enough of them, all different, well-formed, and split without a leak."""

import re
from collections import Counter
from itertools import cycle

import pytest

from training.prompts import Message, Prompt, load_calls, load_prompts

KINDS = {
    "classify", "code", "codefix", "creative", "email", "essay", "explain", "extract", "json", "list", "math",
    "multiturn", "nonenglish", "rewrite", "short", "system", "translate", "yesno",
}  # fmt: skip


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return load_prompts()


def normalised(prompt: Prompt) -> str:
    """The conversation without case, punctuation and spacing."""
    text = " ".join(message.content for message in prompt.messages)
    return " ".join(re.findall(r"\w+", text.casefold()))


def test_a_measurement_finds_enough_prompts_of_every_kind(prompts: list[Prompt]) -> None:
    """There are at least 700 prompts, and at least 15 of each kind and of no other."""
    counts = Counter(prompt.kind for prompt in prompts)
    assert counts.total() >= 700
    assert set(counts) == KINDS
    assert min(counts.values()) >= 15


def test_an_id_names_one_prompt(prompts: list[Prompt]) -> None:
    """Recorded lengths can be joined by id: ids are unique and number the prompts of each kind from 1."""
    for kind in KINDS:
        ids = [prompt.id for prompt in prompts if prompt.kind == kind]
        assert ids == [f"{kind}-{number:03d}" for number in range(1, len(ids) + 1)]


def test_no_prompt_is_repeated(prompts: list[Prompt]) -> None:
    """No two prompts say the same but for case, punctuation and spacing."""
    repeated = [text for text, count in Counter(map(normalised, prompts)).items() if count > 1]
    assert repeated == []


def test_every_conversation_waits_for_an_answer(prompts: list[Prompt]) -> None:
    """At most one system turn, first; then user and assistant in turn, a user's last; none of them blank."""
    for prompt in prompts:
        turns = prompt.messages[1:] if prompt.messages[0].role == "system" else prompt.messages
        roles = [turn.role for turn in turns]
        assert roles == [role for role, _ in zip(cycle(("user", "assistant")), roles, strict=False)]
        assert roles[-1:] == ["user"], prompt.id
        assert all(message.content.strip() for message in prompt.messages), prompt.id


def test_multi_turn_prompts_have_a_history(prompts: list[Prompt]) -> None:
    """Conversations of the kind `multiturn` hold three to seven messages."""
    assert {len(p.messages) for p in prompts if p.kind == "multiturn"} <= {3, 4, 5, 6, 7}


def test_long_system_prompts_are_shared(prompts: list[Prompt]) -> None:
    """The kind `system` shares four system prompts of 150 to 300 words, as products do."""
    counts = Counter(p.messages[0] for p in prompts if p.kind == "system")
    assert {message.role for message in counts} == {"system"}
    assert len(counts) == 4
    assert min(counts.values()) >= 5
    assert all(150 <= len(message.content.split()) <= 300 for message in counts)


def test_both_halves_hold_every_kind_alike(prompts: list[Prompt]) -> None:
    """A ranker trained on one half meets the same mix in the other: at most one more of any kind."""
    halves = Counter((prompt.kind, prompt.split) for prompt in prompts)
    assert all(abs(halves[kind, "train"] - halves[kind, "measure"]) <= 1 for kind in KINDS)


def test_the_split_depends_on_the_id_alone() -> None:
    """A prompt keeps its half when its text is corrected or others are added; the hash picks both sides."""
    ids = [f"list-{number:03d}" for number in range(1, 41)]
    halves = {(name, Prompt(name, "list", (Message("user", text),)).split) for name in ids for text in "ab"}
    assert len(halves) == 40
    assert {split for name, split in halves if int(name[-3:]) % 2} == {"train", "measure"}


def test_calls_are_what_programs_send() -> None:
    """Several applications, each asks the same of many texts with its examples before; no id or text twice."""
    calls = load_calls()
    assert len({call.id for call in calls}) == len(calls) >= 400
    assert len({normalised(call) for call in calls}) == len(calls)
    kinds = Counter(call.kind for call in calls)
    assert min(kinds.values()) >= 30
    assert not KINDS & set(kinds)
    for call in calls:
        roles = [message.role for message in call.messages]
        assert roles[0] == "system" and roles[-1] == "user"
        assert roles[1:-1] == ["user", "assistant"] * ((len(roles) - 2) // 2) != []
    templates = {(call.kind, call.messages[:-1]) for call in calls}
    assert len(templates) == len(kinds)


def test_both_halves_hold_every_application_alike() -> None:
    """Of each application's calls half are to learn from, but for an odd one."""
    halves = Counter((call.kind, call.split) for call in load_calls())
    assert all(abs(halves[kind, "train"] - halves[kind, "measure"]) <= 1 for kind, _ in halves)


def test_no_call_gives_its_examples_away() -> None:
    """What is asked is not among the examples that are shown."""
    assert not [call.id for call in load_calls() if call.messages[-1] in call.messages[:-1]]
