"""``KVAttachment`` in vLLM's words. Imports neither vLLM nor LMCache."""

from __future__ import annotations

from typing import Any

from kv_store.settings import KVAttachment

CHUNK_TOKENS = "torpor.chunk_tokens"
LOOKUP_LIMIT_S = "torpor.lookup_limit_s"
REPORTS = "torpor.reports"


def kv_transfer_config(attachment: KVAttachment) -> dict[str, Any]:
    """vLLM's ``kv_transfer_config``. A load that fails is recomputed; stock, the request fails."""
    return {
        "kv_connector": "TorporConnector",
        "kv_connector_module_path": "kv_store.connector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": _extra(attachment),
    }


def _extra(attachment: KVAttachment) -> dict[str, Any]:
    reports = {} if attachment.reports is None else {REPORTS: attachment.reports}
    return reports | {
        "lmcache.mp.host": f"tcp://{attachment.host}",
        "lmcache.mp.port": attachment.port,
        "lmcache.mp.mq_timeout": attachment.call_limit_s,
        "lmcache.mp.heartbeat_interval": attachment.heartbeat_s,
        "lmcache.mp.mp_transfer_mode": "engine_driven",
        "lmcache.mp.hash_algorithm": "blake3",
        "lmcache.mp.save_decode_cache": True,
        CHUNK_TOKENS: attachment.chunk_tokens,
        LOOKUP_LIMIT_S: attachment.lookup_limit_s,
    }
