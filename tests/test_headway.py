"""The command line as a whole."""

import argparse
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import headway

ROOT = Path(headway.__file__).parent


def test_another_distributions_proxy_is_refused_with_one_clear_line(tmp_path: Path) -> None:
    """Where proxy.py's package shadows ours, nothing half-works: one line says what to do."""
    foreign = tmp_path / "proxy"
    foreign.mkdir()
    (foreign / "__init__.py").write_text("")
    paths = [str(tmp_path), str(ROOT)]
    code = f"import sys; sys.path[:0] = {paths}; import headway; sys.exit(headway.main(['serve']))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "environment of its own" in done.stderr


@pytest.mark.parametrize("command", list(headway._COMMANDS))
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`headway COMMAND --help` works for each command that is listed."""
    with pytest.raises(SystemExit) as done:
        headway.main([command, "--help"])
    assert done.value.code == 0
    assert "usage: headway" in capsys.readouterr().out


def test_no_engine_is_one_clear_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`headway serve` without an engine says what to give, without a traceback."""
    monkeypatch.delenv("HEADWAY_ENGINE", raising=False)
    assert headway.main(["serve"]) == 2
    assert capsys.readouterr().err.startswith("headway: no engine: give --engine")


def test_it_tells_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`headway --version` names the installed distribution's."""
    with pytest.raises(SystemExit) as done:
        headway.main(["--version"])
    assert done.value.code == 0
    assert capsys.readouterr().out == f"headway {version('headway')}\n"


@pytest.mark.parametrize("command", ["train", "replay"])
def test_ctrl_c_is_one_line_and_no_traceback(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a command was doing: the status that shells give to SIGINT."""

    def interrupted(_: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"{headway._COMMANDS[command][0]}.run", interrupted)
    source = {"train": "--from", "replay": "--on"}[command]
    assert headway.main([command, source, "rows.jsonl"]) == 130
    assert capsys.readouterr().err == "headway: interrupted\n"


@pytest.mark.parametrize(
    "words",
    [
        *(["--requests", "7"], ["--load", "nan"], ["--load", "inf"], ["--load=-1"], ["--max-tokens", "0"]),
        *(["--max-overtake", "nan"], ["--max-overtake=-1"], ["--max-overtake", "inf"]),
    ],
)
def test_a_demo_that_cannot_be_run_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """At once, with the option's name; a load that is no number would never send its first request."""
    assert headway.main(["demo", *words]) == 2
    assert words[0].partition("=")[0] in capsys.readouterr().err
