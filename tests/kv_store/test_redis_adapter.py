"""The Redis adapter through TLS, and with whom it must not trust."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kv_store.redis_adapter import RedisAdapter, RedisConfig
from kv_store.seals import DigestSeal
from kv_store.server_command import PASSWORD
from kv_store.settings import Redis
from tests.kv_store.adapters import CHUNKS, KEYS, loaded, looked, stored
from tests.kv_store.proxy import Proxy

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
        adapters.append(RedisAdapter(RedisConfig.from_dict(config), DigestSeal()))
        return adapters[-1]

    yield opening
    for adapter in adapters:
        adapter.close()


@pytest.mark.parametrize("wrong", [{"password": "guessed"}, {"port": 1}])
async def test_a_store_that_does_not_let_us_in_is_a_miss(
    opened: Opened, wrong: dict[str, Any]
) -> None:
    adapter = opened(**wrong)

    assert not await stored(adapter, KEYS[:1], CHUNKS[:1])
    assert await looked(adapter, KEYS[:1]) == []
    adapter.delete(KEYS[:1])


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
    assert await loaded(adapter, KEYS[:3]) == dict(enumerate(CHUNKS[:3]))


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
