"""A process of ours with all that it starts: it ends with us, and never keeps us from ending."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from proxy.launch.child import Child


async def test_one_that_cannot_be_killed_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that hangs in the kernel does not end by SIGKILL: it is named, and whoever stops it goes on."""
    monkeypatch.setattr("proxy.launch.child._KILLED_S", 0.1)
    child = Child.start(["sleep", "600"], os.environ, tmp_path / "log")
    killpg = os.killpg
    try:
        # Stopped and spared its SIGKILL, it is as deaf as one that waits for a driver.
        os.kill(child.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED)
        monkeypatch.setattr("proxy.launch.child.os.killpg", lambda *_: None)
        async with asyncio.timeout(20):
            await child.stop(grace_s=0.0)
        assert child.status is None
        assert f"process {child.pid} " in caplog.text
        await child.stop(grace_s=0.0)
    finally:
        killpg(child.pid, signal.SIGKILL)
    assert await child.ended() == -signal.SIGKILL
