"""What doctor says of self-prediction: by the proxy's own query, and what its answers tell apart."""

from random import Random

from aiohttp import web
from fake_sglang import FakeSglang, asked
from test_doctor import emulated, examined

from predictor.self_query import OPENINGS, signals_of
from proxy.doctor.findings import Report, Verdict
from proxy.doctor.signals import LONG, SHORT, accuracy


def test_signals_are_worth_what_they_tell_apart() -> None:
    """All pairs right is 1, all alike is chance: whatever the opening is that differs."""
    short, long = signals_of({"1": -0.1, "The": -4.0}), signals_of({"1": -4.0, "The": -0.1})
    assert accuracy([short] * len(SHORT) + [long] * len(LONG)) == 1.0
    assert accuracy([short] * (len(SHORT) + len(LONG))) == 0.5


def test_noise_is_worth_nothing() -> None:
    """With more signals than prompts anything can be fitted: a pair is never judged by itself."""
    random = Random(1)
    shares = [
        accuracy([signals_of({text: -9 * random.random() for text in OPENINGS}) for _ in (*SHORT, *LONG)])
        for _ in range(100)
    ]
    assert sum(shares) / len(shares) < 0.6


def worth(report: Report) -> tuple[str, str | None]:
    """What is said of self-prediction's worth, and the flag."""
    (found,) = [found for found in report.findings if found.name == "self-prediction worth"]
    return found.text.partition(":")[0], found.flag


async def test_the_query_that_is_judged_is_the_one_that_the_proxy_sends() -> None:
    """On SGLang: the prompt as it is, rendered by the engine, then one token by ids, with the openings' ids."""
    async with FakeSglang() as engine:
        report = await examined(engine.url)
    queries = [body for path, body, _ in engine.received if path == "/generate"]
    rendered = [body for path, body, _ in engine.received if path == "/tokenize" and "messages" in body]
    # One more asks whether its prompt is cached after it.
    assert len(queries) == 1 + len(SHORT) + len(LONG)
    assert all(one["sampling_params"]["max_new_tokens"] == 1 and one["token_ids_logprob"] for one in queries)
    assert {one["messages"][0]["content"] for one in rendered} >= {*SHORT, *LONG}
    # It answers all alike.
    assert worth(report) == ("not informative on the built-in prompts", "headway serve --self-prediction off")


class TellingSglang(FakeSglang):
    """Begins short answers with Yes, long ones with anything."""

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        if "messages" not in body:
            return await super()._tokenize(request)
        return web.json_response({"tokens": [int(body["messages"][0]["content"] in SHORT)]})

    async def _infer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        ids = body.get("token_ids_logprob")
        if not ids or body["input_ids"] == [1]:
            return await super()._infer(request)
        return web.json_response(asked([one for one in ids if one != sum(b"Yes")]))


async def test_a_model_that_begins_long_answers_otherwise_is_informative() -> None:
    """Judged by what it begins with: no number and no yes is asked for."""
    async with TellingSglang() as engine:
        assert worth(await examined(engine.url)) == ("informative", None)


async def test_an_engine_without_log_probabilities_is_told_how_to_leave_it_off() -> None:
    """No fault of the engine's: a note with the switch, after the proxy's own query by token ids."""
    async with emulated(keep_received=100) as engine:
        report = await examined(engine.url)
        queries = [one.body for one in engine.received if b"logprob_token_ids" in one.body]
    (found,) = [found for found in report.findings if found.name.startswith("self-prediction")]
    assert (found.verdict, found.flag) == (Verdict.NOTE, "headway serve --self-prediction off")
    assert any(SHORT[0].encode() in query for query in queries)
