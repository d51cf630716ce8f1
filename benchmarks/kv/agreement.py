"""How far answers over KV that was compressed agree with undisturbed ones, and what room it takes.

A fleet for each compression, and after it another one that has nothing but what the first left in
the durable tier: greedy answers to the same prompts, token by token. Prompts are English, out of
Python's own manual, since nonsense would leave a model undecided at every token. ``zstd`` stands
beside ``fp8`` as the measure: it loses nothing, so all its answers have to agree.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics
from tempfile import TemporaryDirectory

from benchmarks.kv.asking import Asker, client_of
from benchmarks.kv.disturbing import bring_back, done
from benchmarks.kv.fleets import arranged
from benchmarks.result import Measure
from benchmarks.running import BenchError, Run
from benchmarks.wake.options import LEVELS
from benchmarks.wake.own_fleet import own_fleet
from controller.client import FleetClient
from controller.settings import Settings
from kv_store.settings import Compression, Directory

COMPRESSIONS: tuple[Compression, ...] = ("zstd", "fp8")
PROMPTS = 12
ANSWER_TOKENS = 48
_CHARACTERS = 2000
_MIB = 1 << 20

Tokens = tuple[int, ...]


def measure(run: Run, settings: Settings) -> None:
    """Raises BenchError; what was measured before it stays in ``run``."""
    assert settings.kv is not None
    prompts = [*english(PROMPTS)]
    for compression in COMPRESSIONS:
        run.say(f"agreement: {compression}")
        compressed = replace(settings, kv=replace(settings.kv, compression=compression))
        with TemporaryDirectory(prefix="t-", ignore_cleanup_errors=True) as kept:
            undisturbed = _answers(compressed, Path(kept), prompts, is_known=False)
            if isinstance(settings.kv.durable, Directory):
                run.add(_room(Path(kept), compression))
            restored = _answers(compressed, Path(kept), prompts, is_known=True)
        run.add(*agreements(undisturbed, restored, compression))


def english(count: int) -> Iterator[str]:
    """The longest chapters, so many characters of each."""
    longest = sorted(topics.items(), key=lambda topic: (-len(topic[1]), topic[0]))
    return (text[:_CHARACTERS] for _, text in longest[:count])


def agreements(
    undisturbed: Sequence[Tokens], restored: Sequence[Tokens], compression: Compression
) -> Iterator[Measure]:
    """A value a prompt: the share of its tokens before the first that differs, and whether none
    does."""
    pairs = [*zip(undisturbed, restored, strict=True)]
    alike = tuple(_alike(one, other) / len(one) for one, other in pairs)
    same = tuple(float(one == other) for one, other in pairs)
    for name, values in (("agreement", alike), ("same_answer", same)):
        yield Measure(
            name=name,
            unit="ratio",
            values=values,
            labels={"compression": compression},
            better="higher",
        )


def _alike(one: Tokens, other: Tokens) -> int:
    pairs = enumerate(zip(one, other, strict=True))
    return next((at for at, (a, b) in pairs if a != b), len(one))


def _answers(
    settings: Settings, kept: Path, prompts: Sequence[str], *, is_known: bool
) -> list[Tokens]:
    """Of a fleet's life: to known prompts over KV from the durable tier, to others over what the
    engine has just computed. It sleeps at the end, so that all of it is exported."""
    model = settings.models[0].engine.model
    with (
        own_fleet(settings, lambda told, place: arranged(told, place, kept)) as own,
        FleetClient(own.url) as client,
        closing(client_of(own.url)) as http,
    ):
        asker = Asker(http, model)
        bring_back(client, model)
        answers = [_answer(asker, prompt, is_known=is_known) for prompt in prompts]
        done(client.sleep(model, LEVELS["level_1"]))
        return answers


def _answer(asker: Asker, prompt: str, *, is_known: bool) -> Tokens:
    if not is_known:
        asker.tokens(prompt, 1)
    found, answer = asker.tokens(prompt, ANSWER_TOKENS)
    tiers = ("disk", "redis", "s3") if is_known else ("engine",)
    if found.hit == 0 or found.tier not in tiers:
        raise BenchError(f"{found.hit} tokens were found, in {found.tier}")
    return answer


def _room(kept: Path, compression: Compression) -> Measure:
    files = (Path(place) / name for place, _, names in os.walk(kept) for name in names)
    taken = sum(file.stat().st_size for file in files) / _MIB
    return Measure(
        name="durable_room",
        unit="MiB",
        values=(taken,),
        labels={"compression": compression},
        better="lower",
    )
