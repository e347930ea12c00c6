"""Self-prediction on SGLang: chosen openings, which it gives by token ids alone."""

import asyncio

from asking_model import arrive, asking
from fake_sglang import FakeSglang
from harness import eventually, metrics_text, proxy_before


async def test_sglang_is_asked_by_the_ids_of_the_prompt() -> None:
    """Once the openings' ids are known a waiting chat is rendered by the engine and asked about with them, before
    all others in the engine's queue; what comes back moves it."""
    async with (
        FakeSglang() as engine,
        proxy_before(engine.url, **asking(engine_kind="sglang", self_prediction_share=1.0)) as headway,
    ):
        asker = headway._asker
        assert asker is not None
        await eventually(lambda: bool(asker._vocabulary.of(engine.url, 0)))
        engine.let = asyncio.Semaphore(0)
        tasks = await arrive(headway, [(f"number {one}", 100 + one) for one in range(12)])
        for freed in range(1, len(tasks) + 1):
            engine.let.release()
            await eventually(lambda freed=freed: asker._freed == freed)
            # Who was asked about still waits when the answer comes.
            await eventually(lambda: not asker._tasks)
        assert {answer.status for answer in await asyncio.gather(*tasks)} == {200}
        metrics = await metrics_text(headway)
    queries = [body for path, body, _ in engine.received if path == "/generate"]
    assert queries, "nobody was asked about by ids"
    assert all(body["input_ids"] == [5, 6, 7] and body["priority"] < 4 for body in queries)
    assert all(sum(b"Yes") in body["token_ids_logprob"] for body in queries)
    rendered = [body for path, body, _ in engine.received if path == "/tokenize" and "messages" in body]
    assert len(rendered) == len(queries)
    assert "number" in str(rendered[0]["messages"])
    assert 'headway_self_predictions_total{reason="",result="hit"}' in metrics
