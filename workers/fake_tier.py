"""The KV tier of fake engines: which chunks lie where, in two sets. No bytes, no server.

It stands for LMCache's server as far as conversations can tell: chunks are found by the model's
path, the salt and all tokens before them, so a prefix that two conversations share is one chunk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from kv_store.found import PromptFound, Why
from kv_store.lmcache_client import Placed, Prefix
from kv_store.placing import KVOrder
from kv_store.reports import NEAR, WITH_TOKENS
from kv_store.turns import TurnTold
from workers.engine import EngineError
from workers.fake_answers import digest

CHUNK_TOKENS = 4
CHUNK_BYTES = 1000

Chunk = tuple[str, str, tuple[int, ...]]


class FakeTier:
    def __init__(self) -> None:
        self.host: set[Chunk] = set()
        self.durable: set[Chunk] = set()
        self.is_away = False
        self.recall_s = 0.0
        """What it says a chunk took to recall."""
        self.recalls = asyncio.Event()
        """Recalls wait for it."""
        self.recalls.set()
        self.tells = asyncio.Event()
        """What is told of turns waits for it."""
        self.tells.set()

    def store(self, path: str, salt: str, tokens: Sequence[int]) -> int:
        """Tokens in whole chunks, which lie in the host tier then."""
        chunks = _chunks(Prefix(path, salt, tokens))
        self.host |= set(chunks)
        return len(chunks) * CHUNK_TOKENS

    def resize(self, to_bytes: int) -> int:
        """Chunks that it has no room for any more are in the durable tier. Raises EngineError
        while it is away."""
        if self.is_away:
            raise EngineError("the KV tier: it was told to be away")
        while len(self.host) * CHUNK_BYTES > to_bytes:
            self.durable.add(self.host.pop())
        return to_bytes

    def found(self, path: str, salt: str, tokens: Sequence[int], *, is_near: bool) -> PromptFound:
        """Tokens of the prompt whose KV need not be computed; they lie in the host tier then."""
        hit, tier = 0, "none"
        for chunk in _chunks(Prefix(path, salt, tokens)):
            if chunk in self.host:
                tier = "host" if tier == "none" else tier
            elif chunk in self.durable and not is_near:
                tier = "durable"
            else:
                break
            self.host.add(chunk)
            hit += CHUNK_TOKENS
        is_spared = is_near and len(tokens) - hit >= CHUNK_TOKENS
        return PromptFound(hit, len(tokens), tier, Why.NEAR if is_spared else "")

    def carry_out(self, order: KVOrder, prefix: Prefix) -> Placed:
        """Raises EngineError while it is away."""
        if self.is_away:
            raise EngineError("the KV tier: it was told to be away")
        chunks, moved = set(_chunks(prefix)), set[Chunk]()
        match order:
            case KVOrder.HIBERNATE:
                self.durable |= chunks & self.host
                self.host -= chunks
            case KVOrder.REHYDRATE | KVOrder.RECALL:
                moved = (chunks & self.durable) - self.host
                self.host |= moved
            case KVOrder.WITHDRAW:
                self.durable -= chunks & self.host
            case KVOrder.FORGET:
                self.host -= chunks
                self.durable -= chunks
        in_host, in_durable = len(chunks & self.host), len(chunks & self.durable)
        return Placed(
            len(chunks),
            in_host,
            in_durable,
            CHUNK_BYTES,
            moved_bytes=len(moved) * CHUNK_BYTES,
            moved_s=len(moved) * self.recall_s,
        )


class FakeKV:
    """A fake engine's hand on the tier, by its model's path; words are its tokens."""

    def __init__(self, tier: FakeTier, path: str) -> None:
        self._tier = tier
        self._path = path
        self._turns: dict[str, TurnTold] = {}

    def answered(self, request: str, salt: str, heard: list[str], said: list[str]) -> str:
        """Keeps what the request computed; what the header ``x-torpor-kv`` says of the prompt."""
        prompt, whole = _ids(heard), _ids(heard + said)
        found = self._tier.found(self._path, salt, prompt, is_near=NEAR in request)
        stored = self._tier.store(self._path, salt, whole)
        if WITH_TOKENS in request:
            self._turns[request] = TurnTold(stored // CHUNK_TOKENS, whole)
        return found.told().decode()

    async def turn(self, request: str) -> TurnTold | None:
        await self._tier.tells.wait()
        return self._turns.pop(request, None)


def _ids(words: list[str]) -> list[int]:
    return [int(digest(word)[:6], 16) for word in words]


def _chunks(prefix: Prefix) -> list[Chunk]:
    tokens = tuple(prefix.tokens)
    first = prefix.begin // CHUNK_TOKENS * CHUNK_TOKENS
    ends = range(first + CHUNK_TOKENS, len(tokens) + 1, CHUNK_TOKENS)
    return [(prefix.model, prefix.salt, tokens[:end]) for end in ends]
