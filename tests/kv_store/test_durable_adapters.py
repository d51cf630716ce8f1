"""What every durable tier is to LMCache, whatever it lies in and however it is sealed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from lmcache.v1.distributed.api import ObjectKey

from kv_store.directory_adapter import DirectoryAdapter, DirectoryConfig
from kv_store.durable_adapter import DurableAdapter
from kv_store.forms import Form
from kv_store.packing import Lossless
from kv_store.redis_adapter import RedisAdapter, RedisConfig
from kv_store.s3_adapter import S3Adapter, S3Config
from kv_store.seals import CipherSeal, DigestSeal
from kv_store.server_command import PASSWORD
from kv_store.settings import Directory, Redis
from tests.kv_store.adapters import CHUNKS, KEYS, loaded, looked, stored
from tests.kv_store.decay import Place, chunks_of, flip
from tests.kv_store.object_store import BUCKET, CREDENTIALS, ObjectStore

Opened = Callable[[Form], DurableAdapter]
PLAIN, ZSTD = Lossless(compresses=False), Lossless(compresses=True)
CIPHER = CipherSeal(b"a master key of the test")
FORMS = {"digest": Form(DigestSeal(), PLAIN), "zstd and cipher": Form(CIPHER, ZSTD)}


@pytest.fixture(params=["directory", "valkey", "object_store"])
def durable(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "directory":
        return Directory(tmp_path / "kv")
    found: Redis | ObjectStore = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def opened(durable: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    adapters: list[DurableAdapter] = []

    def opening(form: Form) -> DurableAdapter:
        adapters.append(_adapter(durable, form, monkeypatch))
        return adapters[-1]

    yield opening
    for adapter in adapters:
        adapter.delete(KEYS)
        adapter.close()


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Form:
    return FORMS[request.param]


@pytest.fixture
def adapter(opened: Opened, form: Form) -> DurableAdapter:
    return opened(form)


def _adapter(durable: Place, form: Form, monkeypatch: pytest.MonkeyPatch) -> DurableAdapter:
    if isinstance(durable, Directory):
        return DirectoryAdapter(DirectoryConfig(durable.path, durable.limit_bytes), form)
    if isinstance(durable, ObjectStore):
        for name, told in CREDENTIALS.items():
            monkeypatch.setenv(name, told)
        return S3Adapter(S3Config(BUCKET, "us-east-1", durable.endpoint, None), form)
    monkeypatch.setenv(PASSWORD, durable.password)
    return RedisAdapter(RedisConfig(durable.host, durable.port, 2, False, None), form)


async def test_what_was_stored_is_found_loaded_and_deleted(adapter: DurableAdapter) -> None:
    assert await stored(adapter, KEYS[:18], CHUNKS[:18])

    assert await looked(adapter, KEYS) == list(range(18))
    assert await loaded(adapter, KEYS) == dict(enumerate(CHUNKS[:18]))
    assert adapter.get_usage().total_bytes_used >= 18 * 500
    adapter.delete(KEYS)
    assert await looked(adapter, KEYS) == []
    assert adapter.get_usage().total_bytes_used == 0


async def test_another_finds_what_one_has_left(opened: Opened, form: Form) -> None:
    one, other = opened(form), opened(form)
    await stored(one, KEYS[:3], CHUNKS[:3])

    assert await loaded(other, KEYS[:4]) == dict(enumerate(CHUNKS[:3]))


async def test_what_is_stored_twice_is_there(adapter: DurableAdapter) -> None:
    assert await stored(adapter, KEYS[:2], CHUNKS[:2])
    assert await stored(adapter, KEYS[:2], CHUNKS[:2])

    assert await loaded(adapter, KEYS[:2]) == dict(enumerate(CHUNKS[:2]))


async def test_a_chunk_of_another_size_is_a_miss(adapter: DurableAdapter) -> None:
    await stored(adapter, KEYS[:3], [CHUNKS[0], b"shorter.", bytes(5000)])

    assert await loaded(adapter, KEYS[:3]) == {0: CHUNKS[0]}


@pytest.mark.parametrize(
    "other",
    [
        ObjectKey(KEYS[0].chunk_hash, "m", 1, 0, "another"),
        ObjectKey(KEYS[0].chunk_hash, "m/2", 1, 0, "s"),
        ObjectKey(KEYS[0].chunk_hash, "m", 2, 0, "s"),
        ObjectKey(KEYS[0].chunk_hash, "m", 1, 1, "s"),
    ],
)
async def test_other_keys_have_other_names(adapter: DurableAdapter, other: ObjectKey) -> None:
    await stored(adapter, KEYS[:1], CHUNKS[:1])

    assert await looked(adapter, [other]) == []


async def test_what_goes_elsewhere_is_neither_found_nor_deleted(
    adapter: DurableAdapter, durable: Place
) -> None:
    elsewhere = [replace(key, cache_salt="s~elsewhere") for key in KEYS[:2]]
    await stored(adapter, elsewhere, CHUNKS[:2])
    await stored(adapter, KEYS[2:3], CHUNKS[2:3])

    assert await looked(adapter, [*elsewhere, *KEYS[2:4]]) == [2]
    adapter.delete([*elsewhere, *KEYS[2:4]])
    left = chunks_of(durable, "m")
    assert len(left) == 2
    for chunk in left:
        chunk.remove()


async def test_a_long_path_with_any_character_is_a_name(adapter: DurableAdapter) -> None:
    model = f"/models/{'a long way/' * 20}and a café"
    keys = [ObjectKey(bytes(32), model, 1, 0, "s" * 128)]

    assert await stored(adapter, keys, CHUNKS[:1])
    assert await loaded(adapter, keys) == {0: CHUNKS[0]}
    adapter.delete(keys)


@pytest.mark.parametrize("where", [0, 31, 40, 500, -1])
async def test_a_flipped_byte_is_a_miss_and_goes(
    adapter: DurableAdapter, durable: Place, where: int
) -> None:
    await stored(adapter, KEYS[:3], CHUNKS[:3])
    flip(chunks_of(durable, "m")[1], where)

    assert await loaded(adapter, KEYS[:3]) == {0: CHUNKS[0], 2: CHUNKS[2]}
    assert await looked(adapter, KEYS[:3]) == [0, 2]
    assert await stored(adapter, KEYS[:3], CHUNKS[:3])
    assert await loaded(adapter, KEYS[:3]) == dict(enumerate(CHUNKS[:3]))


async def test_a_chunk_under_another_chunks_name_is_a_miss(
    adapter: DurableAdapter, durable: Place
) -> None:
    await stored(adapter, KEYS[:2], CHUNKS[:2])
    one, other = chunks_of(durable, "m")
    one.write(other.read())

    assert await loaded(adapter, KEYS[:2]) == {1: CHUNKS[1]}


async def test_nothing_of_a_chunk_can_be_read_without_the_key(
    opened: Opened, durable: Place
) -> None:
    await stored(opened(FORMS["zstd and cipher"]), KEYS[1:2], CHUNKS[1:2])

    (lying,) = chunks_of(durable, "m")
    lies = lying.read()
    assert not any(CHUNKS[1][at : at + 8] in lies for at in range(0, 1000, 8))


async def test_what_another_key_has_sealed_is_not_found_and_stays(opened: Opened) -> None:
    ours, others = (
        opened(FORMS["zstd and cipher"]),
        opened(Form(CipherSeal(b"another master key"), ZSTD)),
    )
    plain = opened(FORMS["digest"])
    await stored(ours, KEYS[:1], CHUNKS[:1])

    for stranger in (others, plain):
        assert await looked(stranger, KEYS[:1]) == []
        assert await loaded(stranger, KEYS[:1]) == {}
    assert await loaded(ours, KEYS[:1]) == {0: CHUNKS[0]}
    others.delete(KEYS[:1])
    assert await looked(ours, KEYS[:1]) == [0]


async def test_one_chunk_is_never_sealed_alike_twice() -> None:
    (one, _), (other, _) = (CIPHER.close(KEYS[0], memoryview(CHUNKS[0])) for _ in "12")

    assert one != other


async def test_an_operation_that_goes_wrong_is_answered_as_failed(
    adapter: DurableAdapter,
) -> None:
    nameless = [ObjectKey(bytes(32), "no such character: \udce9", 1, 0, "s")]

    assert not await stored(adapter, nameless, CHUNKS[:1])
    assert await looked(adapter, nameless) == []
    assert await loaded(adapter, nameless) == {}
