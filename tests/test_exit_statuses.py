"""Exit statuses mean the same in every command, as REFERENCE.md says."""

import os
from pathlib import Path

import pytest

import headway

# A file where a directory is needed, and one that is not there.
FILE, NONE = "{tmp}/file", "{tmp}/none"
NOWHERE = "http://127.0.0.1:9"
DONE = [
    ["sidecar-patch", "--image", "headway:1", "--engine-container", "vllm"],
    ["models", "list", "--state", "{tmp}"],
]
FAILED = [
    ["serve", "--engine", NOWHERE, "--port", "0", "--state", f"{FILE}/state"],
    ["run", "vllm", "--engine-python", "/bin/true", "--state", f"{FILE}/state"],
    ["doctor", "--engine", NOWHERE],
    ["train", "--from", f"{NONE}.jsonl"],
    ["train", "--from", FILE],
    ["evaluate", "--artifact", NONE, "--on", f"{NONE}.jsonl"],
    ["retrain", "--state", "{tmp}"],
    ["retrain", "--state", f"{FILE}/state"],
    ["models", "rollback", "--state", "{tmp}"],
    ["models", "publish", NONE, "--state", "{tmp}"],
    ["replay", "--on", f"{NONE}.jsonl"],
    ["replay", "--on", FILE],
]
MISUSED = [
    *([command, "--no-such-flag"] for command in headway._COMMANDS),
    ["no-such-command"],
    ["serve"],
    ["serve", "--engine", NOWHERE, "--port", "none"],
    ["serve", "--engine", NOWHERE, "--config", NONE],
    ["run", "tgi"],
    ["run", "vllm", "--engine-python", "/bin/true", "--port", "none"],
    ["run", "vllm", "--engine-python", NONE],
    ["doctor"],
    ["doctor", "--engine", "nonsense"],
    ["doctor", "--engine", NOWHERE, "--engine-api-key-file", NONE],
    ["train", "--from", f"{NONE}.jsonl", "--seed", "-1"],
    ["evaluate"],
    ["retrain", "--state", "{tmp}", "--rows", "0"],
    ["retrain", "--config", NONE],
    ["models", "list", "--config", NONE],
    ["replay", "--on", f"{NONE}.jsonl", "--policies", "luck"],
    ["sidecar-patch", "--image", "i", "--engine-container", "e", "--port", "8000"],
    ["demo", "--requests", "7"],
]


@pytest.mark.parametrize(
    ("words", "status"),
    [
        *((words, 0) for words in DONE),
        *((words, 1) for words in FAILED),
        *((words, 2) for words in MISUSED),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_a_status_means_the_same_everywhere(
    words: list[str],
    status: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """0 done, 1 it could not be done, 2 it was asked wrongly; what is wrong is the last line, never a traceback."""
    for name in [name for name in os.environ if name.startswith("HEADWAY_")]:
        monkeypatch.delenv(name)
    (tmp_path / "file").write_text("no rows\n")
    try:
        found = headway.main([word.format(tmp=tmp_path) for word in words])
    except SystemExit as ended:
        found = int(ended.code or 0)
    captured = capsys.readouterr()
    assert (found, "Traceback" in captured.err) == (status, False), captured.err
    if status and words[0] != "doctor":
        assert captured.err.splitlines()[-1].startswith("headway")
