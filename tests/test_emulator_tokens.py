"""Tokens of the emulated engine: how many an answer has, how many the cache had, how many /tokenize counts."""

from emulation import CHAT, HELLO, chat, emulated, events, exactly, post

from training.lengths import LengthTable
from training.prompts import Message


async def test_n_answers_are_n_sequences() -> None:
    """Each choice has its own length and end; the prompt counts once."""
    async with emulated([2, 3, 4, 5, 6, 7, 8]) as engine:
        _, body = await post(engine, CHAT, chat(n=3, seed=5))
        lengths = [len(choice["message"]["content"].split()) + 1 for choice in body["choices"]]
        table = engine.lengths
        turns = [Message("user", HELLO[0]["content"])]
        assert lengths == [table.true_length(turns, seed) for seed in (5, 6, 7)]
        assert body["usage"]["completion_tokens"] == sum(lengths)
        found = [data for _, data in await events(engine, CHAT, chat(n=3, seed=5))]
        assert [data["choices"][0]["delta"].get("role") for data in found[:4]] == ["assistant"] * 3 + [None]
        ends = [data["choices"][0]["index"] for data in found[:-1] if data["choices"][0]["finish_reason"]]
        assert sorted(ends) == [0, 1, 2]


async def test_the_seed_picks_the_length_and_the_oracle_knows_it() -> None:
    """Same seed, same length, in any order; max_tokens cuts it and says so."""
    table = LengthTable.of_lengths(range(2, 60), seed=3)
    turns = [Message("user", HELLO[0]["content"])]
    async with emulated(table) as engine:
        for seed in (4, 9, 4, 1):
            _, body = await post(engine, CHAT, chat(seed=seed))
            assert body["usage"]["completion_tokens"] == table.true_length(turns, seed)
        _, body = await post(engine, CHAT, chat(seed=4, max_tokens=1))
        assert body["choices"][0]["finish_reason"] == "length"
        assert body["usage"]["completion_tokens"] == table.true_length(turns, 4, max_tokens=1) == 1


async def test_ignore_eos_runs_to_max_tokens() -> None:
    """As in vLLM: the exact length is the client's."""
    async with emulated([3]) as engine:
        _, body = await post(engine, CHAT, exactly(12))
        assert body["usage"]["completion_tokens"] == 12
        assert body["choices"][0]["finish_reason"] == "length"
        _, body = await post(engine, CHAT, chat(min_tokens=9))
        assert body["usage"]["completion_tokens"] == 9


async def test_a_repeated_prompt_comes_from_the_prefix_cache() -> None:
    """`cached_tokens` of the second request are its full blocks; another salt is another cache."""
    question = [{"role": "user", "content": "word " * 100}]
    async with emulated() as engine:
        counts = []
        for fields in ({}, {}, {"cache_salt": "mine"}):
            _, body = await post(engine, CHAT, chat(messages=question, **fields))
            counts.append(body["usage"]["prompt_tokens_details"]["cached_tokens"])
        prompt_tokens = body["usage"]["prompt_tokens"]
        assert counts == [0, (prompt_tokens - 1) // 16 * 16, 0]


async def test_a_question_appended_inside_the_last_message_shares_the_prefix() -> None:
    """Self-prediction can be tried here: tokens are shared as far as the rendered prompts agree."""
    text = "word " * 100
    async with emulated() as engine:
        await post(engine, CHAT, chat(messages=[{"role": "user", "content": text + "How long?"}]))
        _, body = await post(engine, CHAT, chat(messages=[{"role": "user", "content": text}]))
        assert body["usage"]["prompt_tokens_details"]["cached_tokens"] >= 500 // 4 // 16 * 16


async def test_tokenize_counts_what_usage_counts() -> None:
    """/tokenize of the messages gives the prompt's length; of a prompt, that prompt's."""
    async with emulated() as engine:
        _, counted = await post(engine, "/tokenize", chat())
        _, answered = await post(engine, CHAT, chat())
        assert counted["count"] == len(counted["tokens"]) == answered["usage"]["prompt_tokens"]
        _, counted = await post(engine, "/tokenize", {"prompt": "twelve chars"})
        assert counted["count"] == 3
        _, counted = await post(engine, "/v1/messages/count_tokens", chat())
        assert counted["input_tokens"] == answered["usage"]["prompt_tokens"]
