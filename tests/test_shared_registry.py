"""Trainers that share a registry through Redis: what one publishes is everybody's, and each goes on from it."""

import asyncio
import json
from pathlib import Path

import pytest
from logged_traffic import artifact_called, stream_log
from redis_server import RedisServer, redis_server

import headway
from predictor.redis_address import RedisAddress
from predictor.registry import Role, artifact_directory, read_pointer
from training.registry.journal import BusyError, Decision, Outcome, read_decisions
from training.registry.shared import Place, shared
from training.registry.store import adopt, publish

SECRET = "xylophonesecret"
QUICK = ("--replay-requests", "150", "--engine-profile", "demo")


def config(folder: Path, server: RedisServer) -> Path:
    """serve's configuration, as the chart mounts it; the password is in a file."""
    (folder / "password").write_text(SECRET + "\n")
    path = folder / "headway.toml"
    path.write_text(
        f'engine = ["http://e"]\nstate = "{folder / "state"}"\nredis = "{server.url}"\n'
        f'redis_password_file = "{folder / "password"}"\n'
    )
    return path


async def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Run `headway …` in a thread; its status and all it said."""
    status = await asyncio.to_thread(headway.main, words)
    captured = capsys.readouterr()
    assert SECRET not in captured.out + captured.err
    return status, captured.out + captured.err


async def test_what_is_no_role_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever else somebody has written there: one line with the key and what to do about it."""
    async with redis_server(tmp_path, password=SECRET) as server:
        await server.client.set("headway:role:shadow", b"\xffnonsense")
        status, said = await command(capsys, "models", "list", "--config", str(config(tmp_path, server)))
    assert status == 1
    assert said.count("\n") == 1
    assert "headway:role:shadow in Redis" in said and "delete this key" in said


async def test_the_loop_over_redis(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Retrained from the stream in a pod that is thrown away, listed and rolled back from another."""
    async with redis_server(tmp_path, password=SECRET) as server:
        await stream_log(RedisAddress(server.url, password=SECRET), tmp_path, 400)
        one, two = tmp_path / "one", tmp_path / "two"
        for folder in (one, two):
            folder.mkdir()
        status, said = await command(capsys, "retrain", "--config", str(config(one, server)), *QUICK)
        assert status == 0, said
        champion = read_pointer(one / "state", Role.CHAMPION)
        assert champion is not None
        assert await server.client.get("headway:role:champion") == champion.encode()
        for path in (one / "state").rglob("*.json*"):
            assert SECRET not in path.read_text()
        status, said = await command(capsys, "retrain", "--config", str(config(two, server)), *QUICK)
        assert status == 0, said
        assert "Nothing new" in said
        status, said = await command(capsys, "models", "list", "--json", "--config", str(config(two, server)))
        assert json.loads(said)["champion"] == champion
        assert artifact_directory(two / "state", champion).is_dir()
        status, said = await command(capsys, "models", "rollback", "--config", str(config(two, server)))
        assert status == 0, said
        assert await server.client.get("headway:role:champion") == b""
        status, said = await command(
            capsys, "models", "rollback", champion, "--config", str(config(one, server))
        )
        assert status == 0, said
        assert await server.client.get("headway:role:champion") == champion.encode()
        assert [one.outcome.value for one in read_decisions(one / "state")] == [
            "published",
            "rolled back",
            "rolled back",
        ]


async def test_published_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`models publish DIR --force` gives everybody an artifact; a Redis that is gone changes nothing here either."""
    async with redis_server(tmp_path, password=SECRET) as server:
        made = artifact_called("another", tmp_path)
        words = ("--force", "--config", str(config(tmp_path, server)))
        status, said = await command(capsys, "models", "publish", str(made), *words)
        assert status == 0, said
        champion = read_pointer(tmp_path / "state", Role.CHAMPION)
        assert champion is not None
        assert await server.client.get("headway:role:champion") == champion.encode()
        await server.kill()
        more = artifact_called("more", tmp_path)
        status, said = await command(capsys, "models", "publish", str(more), *words)
        assert status == 1
        assert said.count("\n") == 1
        assert f"127.0.0.1:{server.port}" in said
        assert read_pointer(tmp_path / "state", Role.CHAMPION) == champion


async def test_what_fails_here_serves_nowhere(tmp_path: Path) -> None:
    """An error between the publishing and the sharing of it: nothing was published here either. Where another process
    is at work here, what it has published meanwhile stays."""
    async with redis_server(tmp_path, password=SECRET) as server:
        place = Place(tmp_path / "state", "", RedisAddress(server.url, password=SECRET))
        one = adopt(place.state, artifact_called("one", tmp_path))
        decision = Decision(action="test", outcome=Outcome.PUBLISHED, reason="", artifact=one)
        with pytest.raises(OSError, match="No space left"), shared(place):
            publish(place.state, decision, expected=None)
            raise OSError("No space left")
        assert read_pointer(place.state, Role.CHAMPION) is None
        assert read_decisions(place.state) == []
        with pytest.raises(BusyError), shared(place):
            publish(place.state, decision, expected=None)
            raise BusyError("another one is at work")
        assert read_pointer(place.state, Role.CHAMPION) == one
        assert await server.client.get("headway:role:champion") is None


async def test_redis_fails_in_the_middle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis gone between the work and the publishing: an error, and here nothing serves that serves nowhere else."""
    async with redis_server(tmp_path, password=SECRET) as server:
        made = artifact_called("another", tmp_path)
        from training.registry import command as module

        publish = module._publish

        def then_full(args, place):  # type: ignore[no-untyped-def]
            decision = publish(args, place)
            import redis

            with redis.Redis(port=server.port, password=SECRET) as client:
                client.config_set("maxmemory", "1")
            return decision

        monkeypatch.setattr(module, "_publish", then_full)
        words = ("--force", "--config", str(config(tmp_path, server)))
        status, said = await command(capsys, "models", "publish", str(made), *words)
        assert status == 1
        assert "Redis did not take" in said
        assert await server.client.get("headway:role:champion") is None
        assert read_pointer(tmp_path / "state", Role.CHAMPION) is None
        assert read_decisions(tmp_path / "state") == []
