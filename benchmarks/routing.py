"""What affinity is worth where a model has several replicas: ``python -m benchmarks.routing``.

The core's own ``pick_to_serve`` against the same without an opinion on affinity. Simulated: each
replica keeps KV of so many tokens and evicts what was used longest ago; a turn computes what its
replica does not hold, and all that run there share its speed. Clients wait for their answer, think,
and ask again. ``chats`` are conversations that name themselves, ``prompts`` are requests without a
conversation that begin with one of many long instructions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random
from statistics import mean, quantiles

from controller.core.lifecycle import Phase, Replica
from controller.core.names import (
    NO_AFFINITY,
    Affinity,
    Instant,
    ModelName,
    ReplicaId,
    RequestId,
)
from controller.core.routing import pick_to_serve

PREFILL_TOKENS_S = 8000.0
DECODE_S = 2.0
"""Of one answer, alone."""
SLOWER_EACH = 0.04
"""So much longer with each further request that runs on the replica."""
CACHE_TOKENS = 120_000
TURN_TOKENS = 400
LONGEST_CHAT_TOKENS = 8000
"""Then another is begun."""
INSTRUCTION_TOKENS = 6000


@dataclass
class Engine:
    replica: Replica
    cached: dict[str, int] = field(default_factory=dict)

    def serve(self, whose: str, tokens: int, begins: int) -> tuple[float, float]:
        """(seconds, share of the prompt that was held); ``begins``: of the tokens that can be."""
        held = min(self.cached.pop(whose, 0), begins)
        self.cached[whose] = tokens
        while sum(self.cached.values()) > CACHE_TOKENS:
            del self.cached[next(iter(self.cached))]
        alone_s = (tokens - held) / PREFILL_TOKENS_S + DECODE_S
        return alone_s * (1 + SLOWER_EACH * len(self.replica.leases)), held / max(1, begins)


@dataclass
class Client:
    whose: str
    tokens: int = 0
    home: ReplicaId | None = None

    def ask(self, luck: Random) -> tuple[Affinity, int, int]:
        """Of its next request: why where, tokens, and those that may be held."""
        before = self.tokens if self.tokens < LONGEST_CHAT_TOKENS else 0
        self.tokens = before + TURN_TOKENS
        return Affinity(self.home), self.tokens, before


@dataclass
class Stranger(Client):
    instructions: int = 60

    def ask(self, luck: Random) -> tuple[Affinity, int, int]:
        which = min(int(luck.paretovariate(0.8)) - 1, self.instructions - 1)
        self.whose = f"instructions {which}"
        keys = tuple(which * 10 + step for step in range(6))
        return Affinity(None, keys), INSTRUCTION_TOKENS + TURN_TOKENS, INSTRUCTION_TOKENS


Pick = Callable[[list[Replica], Affinity], Replica | None]


@dataclass(frozen=True)
class Played:
    turns: int
    held: float
    mean_s: float
    p95_s: float
    most: int
    """Requests on one replica at a time."""


def play(clients: list[Client], replicas: int, pick: Pick, until_s: float, seed: int) -> Played:
    luck = Random(seed)
    engines = {engine.replica.id: engine for engine in map(_engine, range(replicas))}
    crew = [engine.replica for engine in engines.values()]
    heap: list[tuple[float, int, int, str]] = []
    for number in range(len(clients)):
        heappush(heap, (luck.random() * 10.0, number, number, "asks"))
    took, held, most, count = [], [], 0, len(clients)
    where: dict[int, Replica] = {}
    while heap and heap[0][0] < until_s:
        at, _, number, what = heappop(heap)
        client, count = clients[number], count + 1
        if what == "ends":
            del where[number].leases[RequestId(str(number))]
            heappush(heap, (at + luck.expovariate(1 / 8.0), count, number, "asks"))
            continue
        affinity, tokens, begins = client.ask(luck)
        replica = pick(crew, affinity)
        assert replica is not None
        seconds, share = engines[replica.id].serve(client.whose, tokens, begins)
        replica.prefixes.served(affinity.prefix)
        replica.leases[RequestId(str(number))] = Instant(at)
        client.home, where[number] = replica.id, replica
        took.append(seconds)
        held += [share] if begins else []
        most = max(most, len(replica.leases))
        heappush(heap, (at + seconds, count, number, "ends"))
    return Played(len(took), mean(held), mean(took), quantiles(took, n=20)[-1], most)


def _engine(index: int) -> Engine:
    return Engine(Replica(ReplicaId(f"m#{index}"), ModelName("m"), index, Phase.AWAKE))


def chats(count: int) -> list[Client]:
    return [Client(f"chat {number}") for number in range(count)]


def prompts(count: int) -> list[Client]:
    return [Stranger("") for _ in range(count)]


def by_load_alone(replicas: list[Replica], affinity: Affinity) -> Replica | None:
    return pick_to_serve(replicas, NO_AFFINITY)


def main() -> int:
    print(
        f"{'clients':<16}{'routing':<12}{'turns':>7}{'held':>7}{'mean s':>8}{'p95 s':>8}{'most':>6}"
    )
    picks: dict[str, Pick] = {"load alone": by_load_alone, "affinity": pick_to_serve}
    for kind, many in ((chats, 40), (chats, 120), (prompts, 40), (prompts, 120)):
        for name, pick in picks.items():
            of = play(kind(many), 4, pick, until_s=600.0, seed=1)
            who = f"{many} {kind.__name__}"
            print(
                f"{who:<16}{name:<12}{of.turns:>7}{of.held:>7.2f}{of.mean_s:>8.2f}"
                f"{of.p95_s:>8.2f}{of.most:>6}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
