"""`headway run`, its plan: the engine gets the flags it needs, the user's win, and what defeats the order is said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.engines.flags import EngineName
from proxy.launch.plan import make_plan


def flags(name: EngineName, *given: str) -> list[str]:
    """What an engine is started with."""
    return list(make_plan(name, "python", given, 8200).command[3:])


def test_vllm_gets_its_order_and_its_reports() -> None:
    """Without a word of the user: priorities, cached tokens, queue times, and a port of its own on loopback."""
    assert " ".join(flags("vllm", "--model", "m")) == (
        "--scheduling-policy priority --enable-prompt-tokens-details --enable-per-request-metrics "
        "--host 127.0.0.1 --port 8200 --model m"
    )


def test_sglang_gets_its_order_and_its_reports() -> None:
    """Priorities without preemption and with a default, cached tokens, metrics."""
    assert " ".join(flags("sglang", "--model-path", "m")) == (
        "--enable-priority-scheduling --schedule-low-priority-values-first --disable-priority-preemption "
        "--retraction-policy priority --default-priority-value 0 --enable-cache-report --enable-metrics "
        "--host 127.0.0.1 --port 8200 --model-path m"
    )


@pytest.mark.parametrize("name", ["vllm", "sglang"])
@given(data=st.data())
def test_the_users_flags_win(name: EngineName, data: st.DataObject) -> None:
    """However a flag of ours is given, with = or without, with dashes or underscores, ours is left out."""
    ours = [word for word in flags(name) if word.startswith("--")]
    flag = data.draw(st.sampled_from(ours))
    written = data.draw(st.sampled_from([flag, flag[:2] + flag[2:].replace("-", "_")]))
    value = data.draw(st.sampled_from(["7", "priority"]))
    given_flags = data.draw(st.sampled_from([(written, value), (f"{written}={value}",)]))
    made = flags(name, *given_flags)
    assert tuple(made[-len(given_flags) :]) == given_flags
    assert flag not in made[: -len(given_flags)]


def test_a_model_may_be_named_without_a_flag() -> None:
    """As in `vllm serve MODEL`; whatever follows stays as it is."""
    assert flags("vllm", "org/model", "--dtype", "auto")[-4:] == ["--model", "org/model", "--dtype", "auto"]
    assert flags("sglang", "org/model")[-2:] == ["--model-path", "org/model"]
    assert "--model" not in flags("vllm")


def test_the_proxy_is_told_where_the_engine_is() -> None:
    """A port or host of the user's is where it will be looked for."""
    assert make_plan("vllm", "python", ("--port", "9000"), 1).url == "http://127.0.0.1:9000"
    assert make_plan("vllm", "python", ("--host=::1",), 1).url == "http://[::1]:1"
    assert make_plan("vllm", "python", ("--host", "0.0.0.0"), 1).url == "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("name", "given_flags", "word"),
    [
        ("vllm", ("--scheduling-policy", "fcfs"), "fcfs"),
        ("vllm", ("--scheduling_policy=fcfs",), "fcfs"),
        ("vllm", ("--no-enable-prefix-caching",), "--no-enable-prefix-caching"),
        ("vllm", ("--host", "0.0.0.0"), "0.0.0.0"),
        ("vllm", ("--api-key", "x"), "--engine-api-key-file"),
        ("sglang", ("--schedule-policy", "lpm"), "lpm"),
        ("sglang", ("--disable-radix-cache",), "--disable-radix-cache"),
    ],
)
def test_a_flag_that_defeats_the_order_is_named(
    name: EngineName, given_flags: tuple[str, ...], word: str
) -> None:
    """It is used, and the log says what it takes away."""
    plan = make_plan(name, "python", given_flags, 1)
    assert len(plan.warnings) == 1
    assert word in plan.warnings[0]
    assert not make_plan(name, "python", (), 1).warnings


def test_a_policy_that_knows_no_priorities_gets_none() -> None:
    """SGLang would refuse to start: with another policy than fcfs or lof the proxy alone orders."""
    assert "--enable-priority-scheduling" not in flags("sglang", "--schedule-policy", "lpm")
    assert "--enable-priority-scheduling" in flags("sglang", "--schedule-policy=lof")
