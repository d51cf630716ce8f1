"""Sleep on CUDA is vLLM's own; this adds the one step that vLLM ignores, level 1 to level 2.

``Executor.sleep`` answers a second call with "already sleeping", and the allocator keeps the
host copies it made at level 1. The extension below, mixed into vLLM's worker by
``worker_extension_cls`` and reached by ``collective_rpc``, drops those copies. Buffers (rotary
tables, scales) lie in the same allocations as the weights and no checkpoint brings them back,
so they are cut out of the host copies first and left where the worker's own wake from level 2
looks for them. Nothing is mapped on the device for it.

Written against vLLM 0.32's ``cumem`` allocator; not run on a GPU yet.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


class SleepDeeper:
    """Mixed into vLLM's GPU worker."""

    model_runner: Any
    get_draft_model: Any
    _sleep_saved_buffers: dict[str, torch.Tensor]
    _sleep_saved_draft_buffers: dict[str, torch.Tensor]

    def sleep_deeper(self) -> None:
        from vllm.device_allocator import get_mem_allocator_instance

        allocations = get_mem_allocator_instance().pointer_to_data
        self._sleep_saved_buffers = saved_buffers(self.model_runner.get_model(), allocations)
        draft = self.get_draft_model()
        if draft is not None:
            self._sleep_saved_draft_buffers = saved_buffers(draft, allocations)
        for allocation in allocations.values():
            if allocation.tag == "weights":
                allocation.cpu_backup_tensor = None
        gc.collect()

    def freed_report(self) -> dict[str, int]:
        """Bytes of this worker's device pools that are unmapped now, by kind, and the rest."""
        from vllm.device_allocator import get_mem_allocator_instance

        freed = {"weights": 0, "kv": 0, "remained": 0}
        for allocation in get_mem_allocator_instance().pointer_to_data.values():
            kind = {"weights": "weights", "kv_cache": "kv"}.get(allocation.tag, "other")
            kind = kind if allocation.is_asleep else "remained"
            freed[kind] = freed.get(kind, 0) + int(allocation.handle[1])
        return freed


def saved_buffers(model: nn.Module, allocations: Mapping[int, Any]) -> dict[str, torch.Tensor]:
    """Host copies of the model's buffers, out of the backups of the allocations they lie in."""
    return {name: _cut_out(buffer, allocations) for name, buffer in model.named_buffers()}


def _cut_out(buffer: torch.Tensor, allocations: Mapping[int, Any]) -> torch.Tensor:
    storage = buffer.untyped_storage()
    start, size = storage.data_ptr(), storage.nbytes()
    for pointer, allocation in allocations.items():
        backup = allocation.cpu_backup_tensor
        if backup is not None and pointer <= start and start + size <= pointer + backup.numel():
            raw = backup[start - pointer : start - pointer + size].clone()
            flat = torch.empty(0, dtype=buffer.dtype).set_(raw.untyped_storage())
            return flat.as_strided(buffer.shape, buffer.stride(), buffer.storage_offset())
    return buffer.cpu().clone()
