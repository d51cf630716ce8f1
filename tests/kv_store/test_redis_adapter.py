"""The adapter alone, against a real Valkey: plain, through TLS, and with whom it must not trust."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from lmcache.v1.distributed.api import ObjectKey

from kv_store.redis_adapter import RedisAdapter, RedisConfig
from kv_store.server_command import PASSWORD
from kv_store.settings import Redis
from tests.kv_store.proxy import Proxy
from tests.workers.stand import eventually

CHUNKS = [bytes([number]) * 1000 for number in range(20)]
KEYS = [ObjectKey(bytes([number]) * 32, "m", 1, 0, "s") for number in range(20)]


@dataclass
class Buffer:
    """As much of LMCache's memory as an adapter sees."""

    byte_array: bytearray


def buffers(contents: list[bytes]) -> list[Any]:
    return [Buffer(bytearray(content)) for content in contents]


Opened = Callable[..., RedisAdapter]


@pytest.fixture
def opened(valkey: Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    adapters: list[RedisAdapter] = []

    def opening(
        port: int = valkey.port,
        *,
        tls: bool = False,
        ca: str | None = None,
        password: str = valkey.password,
    ) -> RedisAdapter:
        monkeypatch.setenv(PASSWORD, password)
        config = {"host": "127.0.0.1", "port": port, "connections": 2, "tls": tls, "ca": ca}
        adapters.append(RedisAdapter(RedisConfig.from_dict(config)))
        return adapters[-1]

    yield opening
    for adapter in adapters:
        adapter.close()


async def result(query: Callable[[], Any]) -> Any:
    found: list[Any] = []

    def asked() -> bool:
        answer = query()
        if answer is not None:
            found.append(answer)
        return bool(found)

    await eventually(asked)
    return found[0]


async def stored(adapter: RedisAdapter, keys: list[ObjectKey], chunks: list[bytes]) -> bool:
    task = adapter.submit_store_task(keys, buffers(chunks))
    done = await result(lambda: adapter.pop_completed_store_tasks() or None)
    return bool(done[task].is_successful())


async def looked(adapter: RedisAdapter, keys: list[ObjectKey]) -> list[int]:
    task = adapter.submit_lookup_and_lock_task(keys, {})
    bitmap = await result(lambda: adapter.query_lookup_and_lock_result(task))
    return list(bitmap.get_indices_list())


async def loaded(adapter: RedisAdapter, keys: list[ObjectKey], size: int) -> dict[int, bytes]:
    into = buffers([bytes(size) for _ in keys])
    task = adapter.submit_load_task(keys, into)
    bitmap = await result(lambda: adapter.query_load_result(task))
    return {index: bytes(into[index].byte_array) for index in bitmap.get_indices_list()}


async def test_what_was_stored_is_found_loaded_and_deleted(opened: Opened) -> None:
    adapter = opened()

    assert await stored(adapter, KEYS[:18], CHUNKS[:18])

    assert await looked(adapter, KEYS) == list(range(18))
    assert await loaded(adapter, KEYS, 1000) == dict(enumerate(CHUNKS[:18]))
    assert adapter.get_usage().total_bytes_used == 18_000
    adapter.delete(KEYS)
    assert await looked(adapter, KEYS) == []
    assert adapter.get_usage().total_bytes_used == 0


async def test_a_chunk_of_another_size_is_a_miss(opened: Opened) -> None:
    adapter = opened()
    await stored(adapter, KEYS[:2], [CHUNKS[0], b"short"])

    assert await loaded(adapter, KEYS[:2], 1000) == {0: CHUNKS[0]}


async def test_other_salts_have_other_names(opened: Opened) -> None:
    adapter = opened()
    await stored(adapter, KEYS[:1], CHUNKS[:1])

    assert await looked(adapter, [ObjectKey(KEYS[0].chunk_hash, "m", 1, 0, "another")]) == []


@pytest.mark.parametrize("wrong", [{"password": "guessed"}, {"port": 1}])
async def test_a_store_that_does_not_let_us_in_is_a_miss(
    opened: Opened, wrong: dict[str, Any]
) -> None:
    adapter = opened(**wrong)

    assert not await stored(adapter, KEYS[:1], CHUNKS[:1])
    assert await looked(adapter, KEYS[:1]) == []
    adapter.delete(KEYS[:1])


async def test_an_operation_that_goes_wrong_is_answered_as_failed(opened: Opened) -> None:
    adapter = opened()
    nameless = [ObjectKey(bytes(32), "no such character: \udce9", 1, 0, "s")]

    assert not await stored(adapter, nameless, CHUNKS[:1])
    assert await looked(adapter, nameless) == []
    assert await loaded(adapter, nameless, 1000) == {}


@pytest.fixture
async def over_tls(valkey: Redis, tmp_path: Path) -> AsyncIterator[tuple[int, Path]]:
    certificate = certify(tmp_path / "server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    proxy = Proxy("127.0.0.1", valkey.port, tls=context)
    yield await proxy.start(), certificate
    await proxy.stop()


async def test_it_speaks_tls_with_whom_it_trusts(
    opened: Opened, over_tls: tuple[int, Path]
) -> None:
    port, certificate = over_tls
    adapter = opened(port, tls=True, ca=str(certificate))

    assert await stored(adapter, KEYS[:3], CHUNKS[:3])
    assert await loaded(adapter, KEYS[:3], 1000) == dict(enumerate(CHUNKS[:3]))


async def test_it_tells_nothing_to_whom_it_does_not_trust(
    opened: Opened, over_tls: tuple[int, Path], tmp_path: Path
) -> None:
    another = certify(tmp_path / "another")

    adapter = opened(over_tls[0], tls=True, ca=str(another))

    assert not await stored(adapter, KEYS[:1], CHUNKS[:1])


def certify(path: Path) -> Path:
    """A certificate for 127.0.0.1 that vouches for itself, and its key beside it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, path.name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    path.with_suffix(".pem").write_bytes(certificate.public_bytes(encoding))
    path.with_suffix(".key").write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path.with_suffix(".pem")
