"""The canary: what an engine answered before, against what it answers after a wake.

Waking can go wrong without an error: weights that were never reloaded, a stale packed copy, a
scale or an adapter that was lost, all answer fluently with HTTP 200. So a fixed question is
asked when an engine first starts, and again before it serves after a wake.

Generating engines are asked two short prompts, greedily, one after the other: batches of one
have one shape, hence one order of summation. Prompt and answer together stay under 16 tokens,
vLLM's smallest KV block, so that neither the prefix cache nor a KV connector can answer in the
model's place. Tokens must be the same. Embedding engines are asked for the vector.

Tolerance. Within one process on one machine the same kernels run on the same bits, and answers
come out equal to the bit; what must be allowed for is another process (other memory alignment,
another number of threads: another order of summation) and, on CUDA, kernels whose order is
free. There a log-probability is a difference of a logit and a log-sum, and a logit of bfloat16
between 16 and 32 is rounded to steps of 1/8: one step either way is 0.125, which bounds what
reordering can do to a log-probability, so 0.15 passes and two steps fail. float32 is summed to
about 1e-5 of a logit, 1e-3 is generous. Embeddings are compared by cosine distance, where one
bfloat16 rounding (2^-9) in every component moves it by about 2^-18. Wrong weights move all of
these by orders of magnitude more.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from workers.whole_files import write_whole

PROMPTS = ("The capital of France is", "1 2 3 4")
NEW_TOKENS = 4
MAX_PROMPT_TOKENS = 16 - NEW_TOKENS - 1

LOGPROB_TOLERANCE = {"float32": 1e-3}
LOGPROB_TOLERANCE_HALF = 0.15
COSINE_DISTANCE = {"float32": 1e-5}
COSINE_DISTANCE_HALF = 1e-3


@dataclass(frozen=True, slots=True)
class Reply:
    """To one prompt: greedy tokens with their log-probabilities, or a vector."""

    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    vector: tuple[float, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Song:
    """All replies of an engine; ``fingerprint`` names the weights and code they came from."""

    fingerprint: str
    dtype: str
    replies: tuple[Reply, ...]


def disagreement(recorded: Song, heard: Song) -> str | None:
    """Why these are not answers of the same engine; None if they may be."""
    if len(recorded.replies) != len(heard.replies):
        return f"{len(heard.replies)} replies, {len(recorded.replies)} were recorded"
    for index, (before, after) in enumerate(zip(recorded.replies, heard.replies, strict=True)):
        why = _reply_disagreement(before, after, recorded.dtype)
        if why is not None:
            return f"prompt {index}: {why}"
    return None


def _reply_disagreement(before: Reply, after: Reply, dtype: str) -> str | None:
    if before.tokens != after.tokens:
        return f"tokens {list(after.tokens)}, recorded {list(before.tokens)}"
    if len(before.logprobs) != len(after.logprobs) or len(before.vector) != len(after.vector):
        return "another shape"
    tolerance = LOGPROB_TOLERANCE.get(dtype, LOGPROB_TOLERANCE_HALF)
    off = max(
        (_gap(a, b) for a, b in zip(before.logprobs, after.logprobs, strict=True)), default=0.0
    )
    if off > tolerance:
        return f"a log-probability is off by {off:.4f}, {tolerance} is allowed"
    if before.vector:
        distance = cosine_distance(before.vector, after.vector)
        allowed = COSINE_DISTANCE.get(dtype, COSINE_DISTANCE_HALF)
        if not distance <= allowed:
            return f"the vector is off by {distance:.2e} (cosine), {allowed} is allowed"
    return None


def _gap(before: float, after: float) -> float:
    gap = abs(before - after)
    return gap if math.isfinite(gap) else math.inf


def cosine_distance(before: Sequence[float], after: Sequence[float]) -> float:
    """0: the same direction; nan where a vector is not finite or is zero."""
    lengths = math.hypot(*before) * math.hypot(*after)
    if not lengths or not math.isfinite(lengths):
        return math.nan
    return 1.0 - math.fsum(a * b for a, b in zip(before, after, strict=True)) / lengths


def fingerprint(path: str, revision: str | None, facts: Mapping[str, Any]) -> str:
    """Of the weights (file names, sizes, times; a hub name stands for itself) and ``facts``."""
    directory = Path(path)
    files = sorted(directory.iterdir()) if directory.is_dir() else []
    told = [
        (file.name, file.stat().st_size, file.stat().st_mtime_ns)
        for file in files
        if file.suffix in {".safetensors", ".bin", ".json", ".gguf", ".pt"}
    ]
    text = json.dumps([path, revision, told, dict(facts)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def load(path: Path | None, expected: str) -> Song | None:
    """The song recorded under this fingerprint; None if there is none, or another's."""
    if path is None:
        return None
    try:
        raw = json.loads(path.read_text())
        song = Song(raw["fingerprint"], raw["dtype"], tuple(_reply(r) for r in raw["replies"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return song if song.fingerprint == expected else None


def save(path: Path | None, song: Song) -> None:
    if path is None:
        return
    write_whole(path, json.dumps(asdict(song)))


def _reply(raw: dict[str, Any]) -> Reply:
    return Reply(tuple(raw["tokens"]), tuple(raw["logprobs"]), tuple(raw["vector"]))
