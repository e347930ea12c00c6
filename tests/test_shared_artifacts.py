"""Artifacts shared through Redis: published once, served by every proxy; nothing broken or half is ever taken."""

import asyncio
from pathlib import Path

import msgspec
import pytest
import redis
from harness import CHAT, ask_raw, chat, engine_of, eventually, post, proxy_before
from published import add_artifact
from redis_server import RedisServer, redis_server

from predictor.artifact import METADATA
from predictor.errors import PredictorError
from predictor.redis_address import RedisAddress
from predictor.registry import RegistryError, Role, artifact_directory, read_pointer
from predictor.shared_registry import Change, SharedRegistry, role_key
from proxy.app import Headway
from proxy.ranking import Ranking


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pointers are looked at often, and the first look may take its time."""
    monkeypatch.setattr("proxy.shared.artifacts._FIRST_LOOK_S", 60.0)
    monkeypatch.setattr("proxy.shared.artifacts._POLL_S", 0.05)
    monkeypatch.setattr("proxy.artifact_watch._POLL_S", 0.05)


def ranking() -> Ranking:
    """The wheel's ranker."""
    made = Ranking()
    assert made.load()
    return made


async def give(server: RedisServer, state: Path, *changes: Change) -> None:
    """Roles to artifacts of a state directory, for everybody."""

    def push() -> None:
        with SharedRegistry(RedisAddress(server.url)) as registry:
            registry.push(state, changes)

    await asyncio.to_thread(push)


async def publish(
    server: RedisServer, state: Path, artifact_id: str | None, expected: str | None = None
) -> None:
    """For everybody, from a state directory that holds the artifact."""
    await give(server, state, (Role.CHAMPION, artifact_id, expected))


def serves(headway: Headway, artifact_id: str) -> bool:
    return headway.status().artifact == artifact_id


async def test_every_proxy_serves_what_is_published(tmp_path: Path) -> None:
    """Published, rolled back, and with Redis gone: all proxies follow, and a new one begins with it."""
    async with redis_server(tmp_path) as server, engine_of([5]) as engine:
        wheels = ranking().artifact_id
        made = add_artifact(tmp_path / "trainer", "first")
        one, two = tmp_path / "one", tmp_path / "two"
        async with (
            proxy_before(engine.url, redis=server.url, state=one, estimator=ranking()) as first,
            proxy_before(engine.url, redis=server.url, state=two, estimator=ranking()) as second,
        ):
            assert serves(first, wheels)
            await publish(server, tmp_path / "trainer", made)
            await eventually(lambda: serves(first, made) and serves(second, made))
            assert (await ask_raw(first, post(CHAT, chat()))).header("x-headway-artifact") == made
            await publish(server, tmp_path / "trainer", None, expected=made)
            await eventually(lambda: serves(first, wheels) and serves(second, wheels))
            await publish(server, tmp_path / "trainer", made)
            await eventually(lambda: serves(second, made))
        async with proxy_before(
            engine.url, redis=server.url, state=tmp_path / "new", estimator=ranking()
        ) as new:
            assert serves(new, made)
        await server.kill()
        async with proxy_before(engine.url, redis=server.url, state=two, estimator=ranking()) as again:
            assert serves(again, made)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ({METADATA: b"{}"}, "other metadata"),
        ({"text_head.npz": b"x"}, "damaged text_head.npz"),
        ({"more.txt": b"x"}, "other files"),
        ({"../../evil": b"x"}, "evil"),
        (None, "not in Redis"),
    ],
)
async def test_what_is_broken_is_not_taken(
    spoil: dict[str, bytes] | None, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Bytes that are not what the id says are refused with the reason; what serves goes on, and nothing is left."""
    async with redis_server(tmp_path) as server, engine_of([5]) as engine:
        made = add_artifact(tmp_path / "trainer", "first")
        async with proxy_before(
            engine.url, redis=server.url, state=tmp_path / "one", estimator=ranking()
        ) as headway:
            before = headway.status().artifact
            async with server.client.pipeline() as pipe:
                if spoil is not None:
                    pipe.hset(f"headway:artifact:{made}", mapping=_files(tmp_path / "trainer", made) | spoil)
                pipe.set("headway:role:champion", made)
                await pipe.execute()
            await eventually(lambda: said in caplog.text)
            assert serves(headway, before)
            assert not artifact_directory(tmp_path / "one", made).exists()
            # Tried again and again: there may be one just now, but no try leaves its own.
            await eventually(lambda: not list((tmp_path / "one" / "models").glob(".fetched-*")))
            assert (await ask_raw(headway, post(CHAT, chat()))).status == 200
            assert not list(tmp_path.rglob("evil"))


def _files(state: Path, artifact_id: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in artifact_directory(state, artifact_id).iterdir()}


async def test_what_could_not_be_taken_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An artifact that is not there yet, then damaged, then whole, serves at last; each reason is said once."""
    async with redis_server(tmp_path) as server, engine_of([5]) as engine:
        made = add_artifact(tmp_path / "trainer", "first")
        key, files = f"headway:artifact:{made}", _files(tmp_path / "trainer", made)
        async with proxy_before(
            engine.url, redis=server.url, state=tmp_path / "one", estimator=ranking()
        ) as headway:
            await server.client.set("headway:role:champion", made)
            await eventually(lambda: "not in Redis" in caplog.text)
            await asyncio.sleep(0.3)
            await server.client.hset(key, mapping=files | {"text_head.npz": b"x"})
            await eventually(lambda: "damaged text_head.npz" in caplog.text)
            await asyncio.sleep(0.3)
            assert caplog.text.count("is not taken") == 2
            await server.client.hset(key, mapping=files)
            await eventually(lambda: serves(headway, made))


async def test_too_much_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size is asked for before a byte is fetched."""
    async with redis_server(tmp_path) as server:
        made = add_artifact(tmp_path / "trainer", "first")
        await publish(server, tmp_path / "trainer", made)
        monkeypatch.setattr("predictor.shared_registry._MOST_BYTES", 1_000)

        def fetch() -> None:
            with SharedRegistry(RedisAddress(server.url)) as registry:
                registry.fetch(tmp_path / "one", made)

        with pytest.raises(RegistryError, match="1000 are allowed"):
            await asyncio.to_thread(fetch)
        with pytest.raises(PredictorError, match="too large"):
            await publish(server, tmp_path / "trainer", made, expected=made)


async def test_a_redis_that_hangs_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fetch that gets no answer gives up; it runs in a thread, which the end of the proxy waits for."""
    monkeypatch.setattr("predictor.shared_registry._ANSWER_S", 0.2)
    asked: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: asked.append(writer), "127.0.0.1", 0)
    address = RedisAddress(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")

    def fetch() -> None:
        with SharedRegistry(address) as registry:
            registry.fetch(tmp_path, "0" * 16)

    async with server:
        with pytest.raises(redis.TimeoutError):
            await asyncio.to_thread(fetch)
        # The connection may be accepted only after the fetch has given up.
        await eventually(lambda: bool(asked))
        for writer in asked:
            writer.close()
    assert len(asked) == 1


async def test_two_publishers(tmp_path: Path) -> None:
    """Who compared with a champion that has been replaced meanwhile changes nothing."""
    async with redis_server(tmp_path) as server:
        state = tmp_path / "trainer"
        one, two = add_artifact(state, "one"), add_artifact(state, "two")
        await publish(server, state, one)
        with pytest.raises(RegistryError, match="meanwhile"):
            await publish(server, state, two)
        assert await server.client.get("headway:role:champion") == one.encode()
        assert not await server.client.exists(f"headway:artifact:{two}")


async def test_who_has_any_role_stays(tmp_path: Path) -> None:
    """A replaced artifact goes after a while only if no other role names it, before or after the change."""
    async with redis_server(tmp_path) as server:
        state = tmp_path / "trainer"
        one, two = add_artifact(state, "one"), add_artifact(state, "two")

        async def stay() -> tuple[bool, bool]:
            lives = [await server.client.ttl(f"headway:artifact:{artifact}") for artifact in (one, two)]
            assert all(life == -1 or life > 0 for life in lives), "both are there"
            return lives[0] == -1, lives[1] == -1

        await give(server, state, (Role.SHADOW, one, None))
        await give(server, state, (Role.CHAMPION, one, None))
        await give(server, state, (Role.SHADOW, two, one))
        assert await stay() == (True, True)
        await give(server, state, (Role.CHAMPION, two, one), (Role.SHADOW, None, two))
        assert await stay() == (False, True)
        await give(server, state, (Role.CHAMPION, one, two))
        assert await stay() == (True, False)


async def test_a_role_that_is_given_meanwhile_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the replaced artifact becomes the shadow during the change, nothing changes, and it stays for good."""
    async with redis_server(tmp_path) as server:
        state = tmp_path / "trainer"
        one, two = add_artifact(state, "one"), add_artifact(state, "two")
        await publish(server, state, one)

        def meanwhile(*_: object) -> None:
            with redis.Redis(port=server.port) as client:
                client.set(role_key(Role.SHADOW), one)

        monkeypatch.setattr("predictor.shared_registry._check_role", meanwhile)
        with pytest.raises(RegistryError, match="meanwhile"):
            await publish(server, state, two, expected=one)
        assert await server.client.ttl(f"headway:artifact:{one}") == -1
        assert await server.client.get("headway:role:champion") == one.encode()


async def test_a_redis_that_is_full_takes_nothing_half(tmp_path: Path) -> None:
    """Where Redis has no room the publish fails whole, with the reason."""
    async with redis_server(tmp_path, "--maxmemory", "1", "--maxmemory-policy", "noeviction") as server:
        made = add_artifact(tmp_path / "trainer", "first")
        with pytest.raises(RegistryError, match="nothing has changed: command not allowed when used memory"):
            await publish(server, tmp_path / "trainer", made)
        assert await server.client.dbsize() == 0


async def test_a_pointer_to_nonsense(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A pointer that holds no id is said and ignored."""
    async with redis_server(tmp_path) as server, engine_of([5]) as engine:
        await server.client.set("headway:role:champion", b"../../etc/\xff")
        async with proxy_before(
            engine.url, redis=server.url, state=tmp_path / "one", estimator=ranking()
        ) as headway:
            await eventually(lambda: "no artifact id" in caplog.text)
            assert (await ask_raw(headway, post(CHAT, chat()))).status == 200
        assert read_pointer(tmp_path / "one", Role.CHAMPION) is None
        assert msgspec.json.encode(headway.status())
