"""The S3 adapter over TLS: whom it trusts, and whom it tells nothing. A proxy speaks TLS for the
store."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from kv_store.forms import Form
from kv_store.packing import Lossless
from kv_store.s3_adapter import S3Adapter, S3Config
from kv_store.seals import DigestSeal
from kv_store.server_command import command
from kv_store.settings import MIB, S3, TierSettings
from tests.kv_store.adapters import CHUNKS, KEYS, loaded, looked, stored
from tests.kv_store.certificates import certify
from tests.kv_store.object_store import CREDENTIALS, ObjectStore
from tests.kv_store.proxy import Proxy


@pytest.fixture
async def over_tls(
    object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[S3]:
    for name, told in CREDENTIALS.items():
        monkeypatch.setenv(name, told)
    certificate = certify(tmp_path / "proxy")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    proxy = Proxy("127.0.0.1", object_store.port, tls=context)
    endpoint = f"https://127.0.0.1:{await proxy.start()}"
    yield replace(object_store.settings, endpoint=endpoint, ca=certificate)
    await proxy.stop()


@contextmanager
def opened(place: S3) -> Iterator[S3Adapter]:
    """As the server would open it, from its arguments."""
    words = command(TierSettings("t", MIB, place), port=1, http_port=2)
    config = json.loads(words[words.index("--l2-adapter") + 1])
    form = Form(DigestSeal(), Lossless(compresses=False))
    with closing(S3Adapter(S3Config.from_dict(config), form)) as adapter:
        yield adapter


async def test_it_speaks_tls_with_whom_it_trusts(over_tls: S3) -> None:
    with opened(over_tls) as adapter:
        assert await stored(adapter, KEYS[:3], CHUNKS[:3])
        assert await loaded(adapter, KEYS[:3]) == dict(enumerate(CHUNKS[:3]))
        await asyncio.to_thread(adapter.delete, KEYS[:3])  # The proxy goes on in this loop.
        assert adapter.report_status()["reaches_store"]
        assert await looked(adapter, KEYS[:3]) == []


async def test_it_tells_nothing_to_whom_it_does_not_trust(over_tls: S3, tmp_path: Path) -> None:
    with opened(replace(over_tls, ca=certify(tmp_path / "another"))) as adapter:
        assert not await stored(adapter, KEYS[:1], CHUNKS[:1])
        assert await looked(adapter, KEYS[:1]) == []
