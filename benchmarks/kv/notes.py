"""What a reader of a kv result has to know."""

from __future__ import annotations

import os
from collections.abc import Iterator

from benchmarks.kv.agreement import ANSWER_TOKENS, PROMPTS
from benchmarks.kv.options import Options
from controller.settings import Settings
from kv_store.settings import Redis

_TRANSFER = (
    "bandwidth: chunks of 2.8 MiB, as SmolLM2's, from and to the host tier; plain copy: the same "
    "chunks, file by file or in pipelines of eight on one connection, without key, digest or "
    "server. What was just written is read out of the page cache, but for prefetch from disk; no "
    "export waits for the disk.",
    "export counts from telling the server of the chunks to the end of the order; prefetch is the "
    "order with its polling, into an empty host tier.",
)
_STORING = (
    "throughput: prompt and answer tokens of four requests at once; prompts: 512 tokens in, 1 "
    "out; answers: 64 in, 96 out; not stored: the same model as a twin with keeps_kv false, in "
    "turns with it, the other one asleep.",
)
_FIRST_TOKEN = (
    "first_token: from sending the request to the first token a client sees; the model was "
    "brought back by an order before, whose seconds are wake.",
    "recomputed: a prompt of the same length that nobody had seen, in the same state; "
    "undisturbed: the same prompt again on the awake engine, from its own prefix cache; "
    "against_host_tier: beside the same prompt when only the engine's KV had been released, so "
    "that it came out of the host tier to weights that stayed.",
    "same_answer: 1 where the restored answer is the undisturbed one, to the letter.",
)
_AGREEMENT = (
    f"agreement: of greedy answers of {ANSWER_TOKENS} tokens to {PROMPTS} prompts, the share of "
    "tokens before the first that differs from the undisturbed answer, where all KV came from the "
    "durable tier of a fleet that was started anew; same_answer: whether none differs.",
    "durable_room: what the KV of these prompts takes in files.",
)


def notes(options: Options, settings: Settings) -> Iterator[str]:
    yield f"When the run began, the machine's load average was {os.getloadavg()[0]:.1f}."
    if "transfer" in options.parts:
        yield from _TRANSFER
    if "storing" in options.parts:
        yield from _STORING
    if "first_token" in options.parts:
        yield from _FIRST_TOKEN
    if "agreement" in options.parts:
        yield from _AGREEMENT
    if settings.kv and isinstance(settings.kv.durable, Redis):
        yield "The fleets kept their KV in the Redis of CONFIG."
    elif settings.kv:
        yield "The fleets kept their KV in a directory of their own."
