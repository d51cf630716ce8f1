"""The Redis adapter with those who let it in, through TLS and not, and those it must not trust.

TLS is spoken by Debian's redis-server, and by a proxy in front of a Valkey that does not speak it.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from kv_store.forms import Form
from kv_store.packing import Lossless
from kv_store.redis_adapter import RedisAdapter, RedisConfig
from kv_store.seals import DigestSeal
from kv_store.server_command import command, environment
from kv_store.settings import MIB, Redis, TierSettings
from tests.kv_store.adapters import CHUNKS, KEYS, loaded, looked, stored
from tests.kv_store.certificates import certify
from tests.kv_store.conftest import PASSWORD, free_port, lack
from tests.kv_store.debian_redis import launched
from tests.kv_store.proxy import Proxy
from tests.workers.stand import eventually

Opened = Callable[[Redis], RedisAdapter]
START_S = 60.0
FORM = Form(DigestSeal(), Lossless(compresses=False))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    """As the server would open it, from its arguments and its environment."""
    adapters: list[RedisAdapter] = []

    def opening(place: Redis) -> RedisAdapter:
        settings = TierSettings("t", MIB, place)
        for name, told in environment(settings).items():
            monkeypatch.setenv(name, told)
        words = command(settings, port=1, http_port=2)
        config = json.loads(words[words.index("--l2-adapter") + 1])
        adapters.append(RedisAdapter(RedisConfig.from_dict(config), FORM))
        return adapters[-1]

    yield opening
    for adapter in adapters:
        adapter.close()


@pytest.mark.parametrize("wrong", [{"password": "guessed"}, {"port": 1}])
async def test_a_store_that_does_not_let_us_in_is_a_miss(
    opened: Opened, valkey: Redis, wrong: dict[str, str | int]
) -> None:
    adapter = opened(replace(valkey, **wrong))  # type: ignore[arg-type]

    assert not await stored(adapter, KEYS[:1], CHUNKS[:1])
    assert await looked(adapter, KEYS[:1]) == []
    adapter.delete(KEYS[:1])


@pytest.fixture
async def through_a_proxy(valkey: Redis, tmp_path: Path) -> AsyncIterator[Redis]:
    certificate = certify(tmp_path / "proxy")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    proxy = Proxy("127.0.0.1", valkey.port, tls=context)
    yield replace(valkey, port=await proxy.start(), tls=True, ca=certificate)
    await proxy.stop()


@pytest.fixture
async def debians(tmp_path: Path) -> AsyncIterator[Redis]:
    if shutil.which("redis-server") is None:
        lack("redis-server is not installed")
    certificate = certify(tmp_path / "redis")
    place = Redis("127.0.0.1", free_port(), "torpor", PASSWORD, tls=True, ca=certificate)
    process = launched(
        tmp_path, port=place.port, certificate=certificate, user="torpor", password=PASSWORD
    )
    try:
        await eventually(lambda: answers(place), timeout_s=START_S)
        yield place
    finally:
        process.kill()
        process.wait()


def answers(place: Redis) -> bool:
    with redis.Redis(
        place.host,
        place.port,
        username=place.username,
        password=place.password,
        ssl=True,
        ssl_ca_certs=str(place.ca),
    ) as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False


@pytest.fixture(params=["through_a_proxy", "debians"])
def over_tls(request: pytest.FixtureRequest) -> Redis:
    place: Redis = request.getfixturevalue(request.param)
    return place


async def test_it_speaks_tls_with_whom_it_trusts(over_tls: Redis, opened: Opened) -> None:
    """Adapters close first: a proxy waits long for who does not end what is encrypted."""
    adapter = opened(over_tls)

    assert await stored(adapter, KEYS, CHUNKS)
    assert await looked(adapter, KEYS) == list(range(20))
    assert await loaded(adapter, KEYS) == dict(enumerate(CHUNKS))
    await asyncio.to_thread(adapter.delete, KEYS)  # The proxy goes on in this loop meanwhile.
    assert adapter.report_status()["reaches_store"]
    assert await looked(adapter, KEYS) == []


async def test_it_tells_nothing_to_whom_it_does_not_trust(
    over_tls: Redis, opened: Opened, tmp_path: Path
) -> None:
    adapter = opened(replace(over_tls, ca=certify(tmp_path / "another")))

    assert not await stored(adapter, KEYS[:1], CHUNKS[:1])


@pytest.mark.parametrize(
    "wrong", [{"password": "guessed"}, {"username": "default"}, {"tls": False}]
)
async def test_redis_lets_in_who_knows_the_word_and_speaks_tls(
    opened: Opened, debians: Redis, wrong: dict[str, str | bool]
) -> None:
    adapter = opened(replace(debians, **wrong))  # type: ignore[arg-type]

    assert not await stored(adapter, KEYS[:1], CHUNKS[:1])
    assert await looked(adapter, KEYS[:1]) == []


async def test_a_destination_has_a_password_and_a_prefix_of_its_own(
    valkey: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = replace(valkey, password="another one")
    sent = TierSettings("t", MIB, own, destinations={"a-b": replace(valkey, prefix="ours:")})
    for name, told in environment(sent).items():
        monkeypatch.setenv(name, told)
    config = json.loads(command(sent, port=1, http_port=2)[-1])
    adapter = RedisAdapter(RedisConfig.from_dict(config), FORM)
    keys = [replace(key, cache_salt="s~a-b") for key in KEYS[:2]]

    assert await stored(adapter, keys, CHUNKS[:2])
    assert await looked(adapter, keys) == [0, 1]

    with redis.Redis(valkey.host, valkey.port, password=PASSWORD) as client:
        assert {key.split(b"torpor:")[0] for key in client.keys("*")} == {b"ours:"}
        adapter.delete(keys)
        assert client.dbsize() == 0
    adapter.close()
