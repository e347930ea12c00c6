"""`headway doctor` on engines that are started right, or wrong in one way: that one finding, and its flag."""

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from dropping_router import dropping_router
from fake_sglang import FakeSglang
from harness import FAST, engine_of, serving_app
from hypothesis import given
from hypothesis import strategies as st

import headway
from proxy.answers import Answer
from proxy.doctor.examine import examine
from proxy.doctor.findings import Finding, Report, Verdict, verdict_of
from proxy.doctor.order import Votes, count_votes
from proxy.doctor.prefix import Reuse, judge
from proxy.doctor.target import Timed
from proxy.settings import Settings
from proxy.upstream import Upstream
from training.emulator import EmulatedEngine
from training.engine import SchedulingPolicy

HEADWAY = str(Path(__file__).parent.parent / "headway.py")
KEY = "the-engines-key"


def emulated(**config: Any) -> EmulatedEngine:
    """An engine of two slots with priorities, blocks of 32 tokens and 5 ms a token."""
    profile = msgspec.structs.replace(FAST, base_s=0.005, max_num_seqs=2, block_size=32, max_model_len=4096)
    engine = engine_of([12], base_s=0.005, slots=2, **config)
    return EmulatedEngine(msgspec.structs.replace(engine.config, profile=profile), engine.lengths)


async def examined(url: str, key: str | None = None, *, force: bool = False) -> Report:
    """What doctor says of the engine at `url`."""
    upstream = Upstream(Settings(engine=(url,)))
    try:
        return await examine(upstream, url, key, force=force)
    finally:
        await upstream.close()


def faults(report: Report) -> list[tuple[str, str | None]]:
    """Names and flags of what is bad."""
    return [(found.name, found.flag) for found in report.findings if found.verdict is Verdict.BAD]


async def test_a_good_engine_is_good() -> None:
    """Every group has its say, nothing is bad, and it says what it is."""
    async with emulated() as engine:
        report = await examined(engine.url)
    assert faults(report) == []
    assert (report.verdict, report.exit_code, report.kind) == (Verdict.GOOD, 0, "vllm")
    names = {found.name for found in report.findings}
    assert names >= {
        *("engine", "model", "metrics", "usage", "usage in streams", "prefix cache", "cached tokens"),
        *("shared prefix", "order", "several answers", "self-prediction", "chunked prefill"),
    }


VLLM_FAULTS = {
    "fcfs": ({"policy": SchedulingPolicy.FCFS}, "order", "--scheduling-policy priority"),
    "no prompt-token details": (
        {"enable_prompt_tokens_details": False},
        "cached tokens",
        "--enable-prompt-tokens-details",
    ),
    "no prefix caching": ({"enable_prefix_caching": False}, "prefix cache", "--enable-prefix-caching"),
    "wrong key": ({"api_key": KEY}, "key", "--engine-api-key-file FILE"),
}


@pytest.mark.parametrize("fault", VLLM_FAULTS)
async def test_a_fault_planted_in_vllm_is_the_one_found(fault: str) -> None:
    """One fault is one finding: whoever is told of two would look for the wrong one."""
    config, name, flag = VLLM_FAULTS[fault]
    async with emulated(**config) as engine:
        report = await examined(engine.url, "wrong" if "api_key" in config else None)
    assert faults(report) == [(name, flag)]
    assert report.exit_code == 1


async def test_the_right_key_opens_the_engine() -> None:
    """With it everything is found as without one."""
    async with emulated(api_key=KEY) as engine:
        assert faults(await examined(engine.url, KEY)) == []


async def test_a_router_that_drops_priorities_is_told_from_an_engine_that_ignores_them() -> None:
    """The flag is then not the engine's: the URL is wrong."""
    async with emulated() as engine, dropping_router(engine.url) as url:
        report = await examined(url)
    assert faults(report) == [("order", "--engine URL OF THE ENGINE ITSELF")]


SGLANG_FAULTS = {
    "no priority": (
        {"enable_priority_scheduling": False},
        "priority setting",
        "--enable-priority-scheduling --schedule-low-priority-values-first --disable-priority-preemption "
        "--retraction-policy priority --default-priority-value 0",
    ),
    "no default": ({"default_priority_value": None}, "priority setting", "--default-priority-value 0"),
    "preemption": ({"disable_priority_preemption": False}, "preemption", "--disable-priority-preemption"),
    "no cache report": ({"enable_cache_report": False}, "cached tokens", "--enable-cache-report"),
    "no radix cache": ({"disable_radix_cache": True}, "prefix cache", "leave out --disable-radix-cache"),
}


@pytest.mark.parametrize("fault", SGLANG_FAULTS)
async def test_a_fault_planted_in_sglang_is_found(fault: str) -> None:
    """By what it says of its own settings, so that no order needs to be shown."""
    settings, name, flag = SGLANG_FAULTS[fault]
    async with FakeSglang(**settings) as engine:
        report = await examined(engine.url)
        assert "/health" not in engine.asked
    assert (name, flag) in faults(report)
    assert report.exit_code == 1


async def test_where_priorities_are_off_nothing_that_hangs_on_them_is_praised() -> None:
    """SGLang's preemption begins with its priorities: it was never "ok" before they were on."""
    async with FakeSglang(enable_priority_scheduling=False, disable_priority_preemption=False) as engine:
        report = await examined(engine.url)
    assert not {"preemption", "retraction"} & {found.name for found in report.findings}


async def test_an_engine_that_has_work_is_not_probed() -> None:
    """Sixty requests would be in somebody's way: not proven, exit 2, and what to say to do it all the same."""
    async with FakeSglang() as engine:
        report = await examined(engine.url)
        # To turn words into tokens takes nothing of the model.
        assert len([path for path, *_ in engine.received if path != "/tokenize"]) < 60
    (order,) = [found for found in report.findings if found.name == "order"]
    assert (order.verdict, order.flag) == (Verdict.UNPROVEN, "--force")


async def test_what_only_brings_notes_is_left_out_at_a_slow_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Doctor shall not take long: the findings that count come first; with --force all of it is done."""
    monkeypatch.setattr("proxy.doctor.examine._BUDGET_S", 0.0)
    async with emulated() as engine:
        spared, forced = await examined(engine.url), await examined(engine.url, force=True)
    left_out = [found.name for found in spared.findings if "left out" in found.text]
    assert left_out == ["signals", "tuning"]
    assert spared.verdict is Verdict.GOOD
    assert not [found for found in forced.findings if "left out" in found.text]


async def test_nothing_there() -> None:
    """One clear finding, no exception."""
    report = await examined("http://127.0.0.1:9")
    assert faults(report) == [("engine", "--engine http://HOST:PORT")]
    assert report.exit_code == 1


async def test_something_that_is_no_engine() -> None:
    """A server that answers 404 to everything has no model to ask."""
    async with serving_app() as url:
        report = await examined(url)
    assert faults(report) == [("model", None)]


async def test_no_more_requests_than_promised() -> None:
    """The ordering probe sends at most 64, and all of doctor leaves nothing running."""
    async with emulated() as engine:
        await examined(engine.url)
        crowd = [one for one in engine.received if "X-Vllm-Priority" in one.headers]
        assert len(crowd) <= 64
        assert engine.inference.model.num_running == 0


@pytest.mark.parametrize(
    ("words", "code"), [([], 2), (["--engine", "nonsense"], 2), (["--engine", "http://127.0.0.1:9"], 1)]
)
async def test_the_command_ends_with_the_right_status(words: list[str], code: int) -> None:
    """0, 1 or 2, and never a traceback."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, HEADWAY, "doctor", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, errors = await process.communicate()
    assert process.returncode == code
    assert b"Traceback" not in said + errors


def test_a_key_that_cannot_be_read_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the setting and the file, and the status of arguments that cannot be used."""
    words = ["doctor", "--engine", "http://127.0.0.1:9", "--engine-api-key-file", str(tmp_path / "none")]
    assert headway.main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("headway: engine_api_key_file: ") and str(tmp_path / "none") in said


def test_a_lock_that_cannot_be_had_keeps_nobody_from_asking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever lies under the lock's name in the folder that all users share."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    arguments = ["doctor", "--engine", "http://127.0.0.1:9", "--json"]
    code = headway.main(arguments)
    (lock,) = tmp_path.iterdir()
    lock.unlink()
    lock.mkdir()
    assert headway.main(arguments) == code
    assert capsys.readouterr().out.count('"findings"') == 2


async def test_json_is_one_document(tmp_path: Path) -> None:
    """For machines: verdict, exit code and findings, on stdout alone; the key comes from a file."""
    key = tmp_path / "key"
    key.write_text(KEY)
    async with emulated(api_key=KEY) as engine:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, HEADWAY, "doctor", "--engine", engine.url, "--json"),
            *("--engine-api-key-file", str(key)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
    report = json.loads(said)
    assert (report["verdict"], report["exit_code"], process.returncode) == ("good", 0, 0)
    assert {"name", "verdict", "text", "flag"} == set(report["findings"][0])


def seen(sent_s: float, first_s: float, rank: int) -> Timed:
    """A request of the probe."""
    return Timed(200, b"", Answer(), sent_s, first_s, first_s, (), rank)


@given(
    sizes=st.integers(8, 30),
    honoured=st.booleans(),
    service_s=st.floats(0.02, 1.0),
    slots=st.integers(1, 3),
)
def test_votes_tell_an_order_from_its_opposite(
    sizes: int, honoured: bool, service_s: float, slots: int
) -> None:
    """An engine of a few slots, sent worst first: by priority every pair says yes, by arrival every pair no."""
    waiting = list(range(sizes))
    order = waiting[:slots] + (waiting[: slots - 1 : -1] if honoured else waiting[slots:])
    began = {place: (turn // slots) * service_s + 0.01 for turn, place in enumerate(order)}
    crowd = [
        seen(0.001 * place, 0.001 * place * (place < slots) + began[place], sizes - place)
        for place in waiting
    ]
    votes = count_votes(crowd, alone_s=0.01, step_s=0.0)
    assert votes.honoured == (votes.pairs if honoured else 0)
    assert votes.decided == (votes.pairs >= 12)


def test_few_or_divided_votes_decide_nothing() -> None:
    """Not proven is an answer too."""
    assert not Votes(11, 11).decided
    assert not Votes(40, 20).decided
    assert Votes(40, 39).decided and Votes(40, 1).decided


@pytest.mark.parametrize(
    ("cached", "verdict"), [(128, Verdict.GOOD), (103, Verdict.GOOD), (96, Verdict.BAD), (0, Verdict.BAD)]
)
def test_the_shared_prefix_is_judged_by_whole_blocks(cached: int, verdict: Verdict) -> None:
    """Four fifths of what could come from the cache must."""
    both = seen(0.0, 1.0, 0)
    assert judge("vllm", Reuse(cached, 128), both, both)[-1].verdict is verdict


def test_one_bad_finding_makes_a_bad_engine() -> None:
    """Bad beats not proven, which beats good."""
    one = {verdict: Finding("x", verdict, "") for verdict in Verdict}
    assert verdict_of(list(one.values())) == (Verdict.BAD, 1)
    assert verdict_of([one[Verdict.GOOD], one[Verdict.UNPROVEN]]) == (Verdict.UNPROVEN, 2)
    assert verdict_of([one[Verdict.GOOD], one[Verdict.NOTE]]) == (Verdict.GOOD, 0)
