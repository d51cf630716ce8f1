"""What an engine's KV depends on, as its configuration has it (``kv_store.keys``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kv_store.keys import KVIdentity, fingerprint


def identity_of(vllm_config: Any) -> KVIdentity:
    """Reads the weights' files: at a start and after each reload. Raises OSError, ValueError."""
    model, parallel = vllm_config.model_config, vllm_config.parallel_config
    overrides = {
        "hf_overrides": repr(model.hf_overrides),
        "quantization": str(model.quantization),
        "rope": repr(getattr(model.hf_text_config, "rope_parameters", None)),
        "sliding_window": repr(model.get_sliding_window()),
    }
    return KVIdentity(
        weights=fingerprint(_directory(model.model, model.revision)),
        dtype=str(model.dtype),
        kv_dtype=str(vllm_config.cache_config.cache_dtype),
        tensor_parallel=parallel.tensor_parallel_size,
        pipeline_parallel=parallel.pipeline_parallel_size,
        overrides=overrides,
        lora=repr(vllm_config.lora_config),
    )


def _directory(model: str, revision: str | None) -> Path:
    """Of a hub name, the snapshot that vLLM has loaded."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, revision=revision, local_files_only=True))
