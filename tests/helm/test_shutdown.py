"""Stopping pods in Kubernetes' order, with answers under way: none is lost."""

import asyncio
from pathlib import Path

import aiohttp

from .kubelet import Node, Pod
from .local_pods import PATIENCE_S, QUICK, Ports, gateway, stack
from .rendering import IMAGE, only, render

# Between the signal and the refusals a request is to be served, and the answers in hand are to outlast both: time
# enough for either on a busy machine.
LONGER = "drainDelaySeconds=3"
IN_HAND_TOKENS = 2000


async def answer_of(url: str, tokens: int) -> str:
    """How one streamed answer ended: complete, refused, or cut."""
    body = {"model": "emulated", "messages": [{"role": "user", "content": "Go on."}], "stream": True}
    body |= {"max_tokens": tokens, "ignore_eos": True}
    timeout = aiohttp.ClientTimeout(PATIENCE_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as client,
            client.post(url + "/v1/chat/completions", json=body) as answer,
        ):
            text = await answer.text()
    except aiohttp.ClientError:
        return "cut"
    if answer.status != 200:
        return f"refused {answer.status}"
    return "complete" if text.endswith("data: [DONE]\n\n") and '"error"' not in text else "cut"


async def streams(pod: Pod, count: int) -> list[asyncio.Task[str]]:
    """So many long answers, all inside the proxy or at the engine."""
    asked = [asyncio.create_task(answer_of(url_of(pod), IN_HAND_TOKENS)) for _ in range(count)]
    async with asyncio.timeout(PATIENCE_S), aiohttp.ClientSession() as client:
        in_hand = 0
        while in_hand < count:
            async with client.get(url_of(pod, "headway-admin") + "/headway/status") as answer:
                status = await answer.json()
            in_hand = status["waiting"] + status["running"]
    return asked


def url_of(pod: Pod, port: str = "headway") -> str:
    """Where the pod's proxy listens."""
    return f"http://127.0.0.1:{pod.container('headway').port(port)}"


async def answers_while_stopping(pod: Pod, count: int) -> tuple[list[str], str, str]:
    """Stop the pod under `count` answers: how they ended, what came first just afterwards, and what came last."""
    asked = await streams(pod, count)
    stopping = asyncio.create_task(pod.stop())
    first = last = await answer_of(url_of(pod), 1)
    while last == "complete":
        last = await answer_of(url_of(pod), 1)
    await stopping
    return [await task for task in asked], first, last


async def test_stopping_a_stack_loses_no_answer(tmp_path: Path) -> None:
    """Running and waiting answers end whole; new ones are served at first, then refused; the engine ends first."""
    async with stack(tmp_path, "engine.args={--max-num-seqs=4}", LONGER) as (_, pod):
        assert await answers_while_stopping(pod, 8) == (["complete"] * 8, "complete", "refused 503")
    engine, proxy = pod.container("engine"), pod.container("headway")
    assert (engine.exit_status, proxy.exit_status) == (0, 0)
    assert engine.ended_at is not None
    assert proxy.ended_at is not None
    assert engine.ended_at < proxy.ended_at


async def test_without_the_hook_answers_would_be_lost(tmp_path: Path) -> None:
    """The same without the engine's preStop hook: so it is the hook that keeps the answers."""
    manifests = render(IMAGE, "engine.model=emulated", *Ports().sets(), *QUICK)
    del only(manifests, "Deployment")["spec"]["template"]["spec"]["containers"][0]["lifecycle"]
    node = Node(manifests, tmp_path)
    async with node.running("Deployment", "demo-headway") as pod:
        await pod.container("headway").wait_for("readinessProbe", PATIENCE_S)
        asked = await streams(pod, 4)
        await pod.stop()
        assert "complete" not in [await task for task in asked]


async def test_stopping_a_gateway_loses_no_answer(tmp_path: Path) -> None:
    """A gateway drains by itself on SIGTERM, after the delay in which it still serves."""
    async with gateway(tmp_path, LONGER) as (_, pod):
        assert await answers_while_stopping(pod, 8) == (["complete"] * 8, "complete", "refused 503")
