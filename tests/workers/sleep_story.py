"""One real engine's life, told as JSON on standard output; run by test_cpu_sleep.py.

A process of its own, because an engine's environment must stand before vLLM is imported.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from workers.engine import CanaryMismatch, EngineSpec, Report, Rest, Started
from workers.env import engine_env

STORY = (
    (Rest.KV_RELEASED,),
    (Rest.LEVEL_1,),
    (Rest.LEVEL_2,),
    (Rest.KV_RELEASED, Rest.LEVEL_1, Rest.LEVEL_2),
)
KEY = "a-key-of-the-test"


async def ask(started: Started, model: str, *, pooling: bool, key: str = KEY) -> tuple[int, Any]:
    import httpx

    base = f"http://{started.endpoint.host}:{started.endpoint.port}"
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=base, headers=headers, timeout=60) as client:
        if pooling:
            body: dict[str, Any] = {"model": model, "input": "hello world"}
            answer = await client.post("/v1/embeddings", json=body)
            return answer.status_code, answer.json().get("data")
        said = [{"role": "user", "content": "What is the capital of France?"}]
        body = {"model": model, "messages": said, "max_tokens": 16, "temperature": 0}
        answer = await client.post("/v1/chat/completions", json=body)
        return answer.status_code, answer.json().get("choices")


def told(report: Report) -> dict[str, Any]:
    return {
        "bytes": report.memory.device_bytes,
        "phases_s": report.phases_s,
        "freed": report.freed,
    }


async def through_the_rungs(engine: Any, started: Started, spec: EngineSpec) -> dict[str, Any]:
    pooling = spec.engine_args.get("runner") == "pooling"
    before = await engine.progress()
    first = await ask(started, spec.model, pooling=pooling)
    after = await engine.progress()
    wakes = []
    for rests in STORY:
        sleeps = [told(await engine.sleep(rest)) for rest in rests]
        wake = told(await engine.wake())
        again = await ask(started, spec.model, pooling=pooling)
        rungs = [rest.value for rest in rests]
        wakes.append({"rests": rungs, "sleeps": sleeps, "wake": wake, "same": again == first})
    stranger, _ = await ask(started, spec.model, pooling=pooling, key="another-key")
    return {
        "started": told(started) | {"pids": started.pids, "max_model_len": started.max_model_len},
        "first": first,
        "steps": after.steps - before.steps,
        "running": after.running,
        "longest_step_s": after.longest_step_s,
        "wakes": wakes,
        "stranger": stranger,
    }


class Stream:
    """A long greedy answer as its client reads it."""

    def __init__(self, started: Started, model: str, request: str) -> None:
        import httpx

        base = f"http://{started.endpoint.host}:{started.endpoint.port}"
        headers = {"Authorization": f"Bearer {KEY}", "X-Request-Id": request}
        self._http = httpx.AsyncClient(base_url=base, headers=headers, timeout=120)
        self._model = model
        self.pieces: list[str] = []
        self._news = asyncio.Event()
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> str:
        body = {
            "model": self._model,
            "prompt": "A short history of the city of Paris:",
            "max_tokens": 40,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        async with self._http, self._http.stream("POST", "/v1/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    self.pieces.append(json.loads(line[6:])["choices"][0]["text"])
                    self._news.set()
        return "".join(self.pieces)

    async def has_said(self, pieces: int) -> None:
        async with asyncio.timeout(120):
            while len(self.pieces) < pieces:
                self._news.clear()
                await self._news.wait()


async def frozen(
    engine: Any, started: Started, spec: EngineSpec, rests: tuple[Rest, ...], harm: bool = False
) -> dict[str, Any]:
    """Two streams are frozen, the client of one leaves; ``harm``: the weights are damaged."""
    one, other = (Stream(started, spec.model, f"frozen-{name}") for name in "ab")
    await one.has_said(8)
    await other.has_said(8)
    for rest in rests:
        await engine.sleep(rest, keep=True)
    await asyncio.sleep(0.1)
    said = len(one.pieces)
    if harm:
        damage(engine)
    other.reading.cancel()
    await asyncio.sleep(0.3)
    is_silent = len(one.pieces) == said
    woke = told(await engine.wake())
    text = await one.reading
    left = engine._llm.output_processor.get_num_unfinished_requests()
    return {"said": said, "silent": is_silent, "text": text, "left": left, "wake": woke}


async def freezes(engine: Any, started: Started, spec: EngineSpec) -> dict[str, Any]:
    undisturbed = await Stream(started, spec.model, "undisturbed").reading
    lives = [await frozen(engine, started, spec, rests) for rests in STORY[:3]]
    harmed = await frozen(engine, started, spec, (Rest.LEVEL_1,), harm=True)
    return {"undisturbed": undisturbed, "lives": lives, "harmed": harmed}


def worker_of(engine: Any) -> Any:
    return engine._launched._core._core.model_executor.driver_worker.worker


def damage(engine: Any) -> None:
    worker_of(engine).model_runner.get_model().model.norm.weight.data.mul_(-1)


async def damaged_in_memory(engine: Any) -> dict[str, Any]:
    """One small tensor is wrong when it wakes: the weights are reloaded, the canary agrees."""
    await engine.sleep(Rest.LEVEL_1)
    damage(engine)
    return told(await engine.wake())


def change(directory: Path) -> int:
    """Weights whose answer is known without an engine; the token that must follow token 42.

    With every layer's way back into the residual stream zeroed, the model is its embedding, its
    last norm and the tied head. All rows of the embedding move on by 1000, so that a head packed
    from the old ones answers with another token.
    """
    from safetensors.torch import load_file, save_file

    file = directory / "model.safetensors"
    weights = load_file(file)
    for name, tensor in weights.items():
        if "o_proj" in name or "down_proj" in name:
            tensor.zero_()
    embedding = weights["model.embed_tokens.weight"].roll(1000, dims=0)
    weights["model.embed_tokens.weight"] = embedding
    draft = file.with_suffix(".new")
    save_file(weights, draft, metadata={"format": "pt"})
    draft.replace(file)
    return _follower(embedding, weights["model.norm.weight"])


def _follower(embedding: Any, norm: Any) -> int:
    token = embedding[42].float()
    hidden = token * (token.pow(2).mean() + 1e-5).rsqrt() * norm.float()
    return int((embedding.float() @ hidden).argmax())


async def changed_on_disk(engine: Any, directory: Path) -> dict[str, Any]:
    """Level 2 brings what lies on the disk, every packed copy of it; and the canary objects."""
    from vllm import SamplingParams
    from vllm.inputs import tokens_input

    from workers.phases import Phases

    shutil.copy(directory / "model.safetensors", directory / "original")
    await engine.sleep(Rest.LEVEL_2)
    expected = change(directory)
    await engine._wake_up(Phases())
    greedy = SamplingParams(temperature=0.0, max_tokens=1)
    async for output in engine._llm.generate(tokens_input([42]), greedy, "changed"):
        got = output.outputs[0].token_ids[0]
    await engine.sleep(Rest.LEVEL_2)
    mismatch = await what_the_canary_says(engine)
    (directory / "original").replace(directory / "model.safetensors")
    await engine.sleep(Rest.LEVEL_2)
    return {
        "expected": expected,
        "got": got,
        "mismatch": mismatch,
        "restored": told(await engine.wake()),
    }


async def what_the_canary_says(engine: Any) -> str:
    try:
        await engine.wake()
    except CanaryMismatch as error:
        return str(error)
    return ""


async def thawed_with_wrong_weights(
    engine: Any, started: Started, spec: EngineSpec
) -> dict[str, Any]:
    """A stream is frozen twice: damage in memory is mended before it goes on; with other weights
    on the disk it never does, and its engine is stopped."""
    stream = Stream(started, spec.model, "thawed")
    await stream.has_said(8)
    await engine.sleep(Rest.LEVEL_1, keep=True)
    damage(engine)
    mended = told(await engine.wake())
    await stream.has_said(len(stream.pieces) + 4)
    await engine.sleep(Rest.LEVEL_2, keep=True)
    await asyncio.sleep(0.1)
    said = len(stream.pieces)
    change(Path(spec.path))
    mismatch = await what_the_canary_says(engine)
    await engine.stop()
    (end,) = await asyncio.gather(stream.reading, return_exceptions=True)
    silent, broken = len(stream.pieces) == said, isinstance(end, Exception)
    return {
        "mended": mended,
        "said": said,
        "silent": silent,
        "mismatch": mismatch,
        "broken": broken,
    }


async def live(spec: EngineSpec, canary_path: Path, more: str) -> dict[str, Any]:
    from workers.vllm_engine import VllmEngine

    engine = VllmEngine(spec, key=KEY, canary_path=canary_path, device="cpu")
    started = await engine.start()
    try:
        life = await through_the_rungs(engine, started, spec)
        if more == "freeze":
            life["frozen"] = await freezes(engine, started, spec)
        if more == "damage":
            life["damaged"] = await damaged_in_memory(engine)
            life["changed"] = await changed_on_disk(engine, Path(spec.path))
            life["thawed"] = await thawed_with_wrong_weights(engine, started, spec)
    finally:
        await engine.stop()
    return life


def main() -> None:
    told_spec, canary_path, more = sys.argv[1:]
    spec = EngineSpec(**json.loads(told_spec))
    os.environ.update(engine_env(spec, device="cpu"))
    life = asyncio.run(live(spec, Path(canary_path), more))
    print(json.dumps(life | {"canary": json.loads(Path(canary_path).read_text())}))


if __name__ == "__main__":
    main()
