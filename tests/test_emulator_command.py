"""`python -m training.emulator`: it starts, says where, and stops when told to."""

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from training.emulator.__main__ import main

LENGTHS = b'{"id":"yesno-001","prompt_tokens":40,"output_tokens":[3],"finish":["stop"]}\n'


def test_it_serves_until_sigterm(tmp_path: Path) -> None:
    """The line on stdout names the URL; /v1/models answers there; SIGTERM ends it with 0."""
    table = tmp_path / "lengths.jsonl"
    table.write_bytes(LENGTHS)
    command = [sys.executable, "-m", "training.emulator", "--port", "0", "--lengths", str(table)]
    with subprocess.Popen(
        [*command, "--served-model-name", "m"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        with urllib.request.urlopen(f"{url}/v1/models", timeout=60) as response:
            assert json.load(response)["data"][0]["id"] == "m"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--lengths", "/nowhere/lengths.jsonl"], "/nowhere/lengths.jsonl"),
        (["--max-num-seqs", "0"], "profile demo"),
        (["--max-num-seqs", "5000"], "max_num_batched_tokens"),
    ],
)
def test_arguments_that_make_no_engine_are_one_clear_line(
    arguments: list[str],
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit status 2 and what is wrong, no traceback."""
    monkeypatch.setattr(sys, "argv", ["training.emulator", "--port", "0", *arguments])
    assert main() == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
