"""What an engine is started with: environment, arguments, and the gate before its server."""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest

from workers.engine import EngineSpec
from workers.engine_args import OURS, effective_args, known_engine_args, unknown_engine_args
from workers.env import engine_env
from workers.openai_server import KeyGate


def spec(**engine_args: Any) -> EngineSpec:
    return EngineSpec(model="m", path="org/m", engine_args=engine_args)


def test_vllms_arguments_are_known_without_importing_it() -> None:
    import sys

    before = "vllm" in sys.modules
    known = known_engine_args()
    assert ("vllm" in sys.modules) is before
    assert {"max_model_len", "kv_transfer_config", "chat_template", "tool_call_parser"} <= known


def test_unknown_arguments_and_ours_are_named() -> None:
    args = {"max_model_len": 1, "max_modell_len": 1, "api_key": "k", "port": 1}
    assert unknown_engine_args(args) == ["api_key", "max_modell_len", "port"]


def test_the_users_arguments_go_over_defaults_and_under_ours() -> None:
    given = spec(kv_cache_memory_bytes=1, served_model_name="x")
    args = effective_args(given, device="cpu")
    assert args["kv_cache_memory_bytes"] == 1
    assert args["served_model_name"] == ["m"]
    assert args["worker_cls"] == "workers.sleep.cpu.SleepingCPUWorker"
    assert "api_key" in OURS


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_ranks_are_processes_that_share_the_cores(device: str) -> None:
    """In a placement group vLLM would make them actors of Ray by itself."""
    wide = spec(tensor_parallel_size=2)
    assert effective_args(wide, device=device)["distributed_executor_backend"] == "mp"
    threads = int(engine_env(spec(), device="cpu")["OMP_NUM_THREADS"])
    assert int(engine_env(wide, device="cpu")["OMP_NUM_THREADS"]) == max(1, threads // 2)


def test_on_cuda_vllms_own_sleep_mode_is_on() -> None:
    args = effective_args(spec(), device="cuda")
    assert args["enable_sleep_mode"] is True
    assert "worker_cls" not in args
    assert "enforce_eager" not in args


def test_the_environment_keeps_administration_closed_whatever_the_spec_says() -> None:
    env = engine_env(
        EngineSpec(model="m", path="org/m", env={"VLLM_SERVER_DEV_MODE": "1", "A": "b"})
    )
    assert env["VLLM_SERVER_DEV_MODE"] == "0"
    assert env["A"] == "b"
    assert int(env["OMP_NUM_THREADS"]) >= 1
    assert "HF_HUB_OFFLINE" not in env


def test_a_local_directory_is_never_looked_up_in_the_hub(tmp_path: Path) -> None:
    assert engine_env(EngineSpec(model="m", path=str(tmp_path)))["HF_HUB_OFFLINE"] == "1"


def test_a_compiling_engine_may_compile() -> None:
    assert "TORCHDYNAMO_DISABLE" in engine_env(spec())
    assert "TORCHDYNAMO_DISABLE" not in engine_env(spec(enforce_eager=False))


async def status(path: str, *headers: tuple[bytes, bytes], kind: str = "http") -> int:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "websocket.connect"}

    scope = {"type": kind, "path": path, "headers": list(headers)}
    await KeyGate(app, "the-key")(scope, receive, send)
    return int(sent[0].get("status") or sent[0]["code"])


@pytest.mark.parametrize(
    "path", ["/v1/models", "/metrics", "/tokenize", "/invocations", "/health/", "/", "/docs"]
)
async def test_every_path_but_health_wants_the_key(path: str) -> None:
    assert await status(path) == 401
    assert await status(path, (b"authorization", b"Bearer the-ke")) == 401
    assert await status(path, (b"authorization", b"Basic the-key")) == 401
    assert await status(path, (b"authorization", b"Bearer the-key")) == 200


async def test_health_is_open_and_websockets_are_not() -> None:
    assert await status("/health") == 200
    assert await status("/v1/realtime", kind="websocket") == 1008
