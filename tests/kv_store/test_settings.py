"""What the server and the engine are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kv_store.attach import kv_transfer_config
from kv_store.server_command import PASSWORD, command, environment
from kv_store.settings import MIB, Directory, KVAttachment, Redis, TierSettings
from workers.engine import EngineSpec
from workers.engine_args import effective_args, unknown_engine_args

ATTACHMENT = KVAttachment("127.0.0.1", 5655)


def test_secrets_stay_out_of_the_arguments() -> None:
    told = TierSettings("t", MIB, Redis("localhost", 6379, "user", "a-secret"))

    assert "a-secret" not in " ".join(command(told, port=1, http_port=2))
    assert environment(told)[PASSWORD] == "a-secret"
    assert "a-secret" not in repr(told)


def test_nothing_leaves_and_nothing_else_gets_in(tmp_path: Path) -> None:
    told = TierSettings("t", MIB, Directory(tmp_path))
    words = command(told, port=1, http_port=2)

    assert environment(told)["LMCACHE_TRACK_USAGE"] == "false"
    assert not any("script" in word for word in words)
    hosts = [words[words.index(flag) + 1] for flag in ("--host", "--http-host")]
    assert hosts == ["127.0.0.1", "127.0.0.1"]


@pytest.mark.parametrize("chunk_tokens", [100, 0, -128])
def test_chunks_are_whole_blocks(chunk_tokens: int) -> None:
    with pytest.raises(ValueError, match="multiple of 128"):
        TierSettings("t", MIB, None, chunk_tokens=chunk_tokens)


def test_an_engine_attaches_with_our_connector() -> None:
    args = effective_args(EngineSpec("m", "/models/m", kv=ATTACHMENT), device="cpu")

    assert args["kv_transfer_config"] == kv_transfer_config(ATTACHMENT)
    assert args["kv_transfer_config"]["kv_load_failure_policy"] == "recompute"
    assert args["enable_prompt_tokens_details"] is True


@pytest.mark.parametrize("spec", [EngineSpec("m", "/m"), EngineSpec("m", "/m@1", kv=ATTACHMENT)])
def test_an_engine_without_the_tier_is_as_before(spec: EngineSpec) -> None:
    args: dict[str, Any] = effective_args(spec, device="cpu")

    assert "kv_transfer_config" not in args


def test_the_tier_is_not_the_users_to_set() -> None:
    assert unknown_engine_args({"kv_transfer_config": {}}) == ["kv_transfer_config"]
