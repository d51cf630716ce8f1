"""Copies of weights that vLLM's CPU layers keep outside ``named_parameters()``.

At load ``dispatch_cpu_unquantized_gemm`` packs a weight for oneDNN (or an AMX kernel) and hangs
the packed copy into the closure of ``layer.cpu_linear``; the parameter itself is emptied, or
stays as a second copy where it is also an embedding. To give that memory back and get it again:

- *release*: free oneDNN's object, and the storage of packed tensors, leaving the Python objects;
- *restore*: after a reload, move what was packed anew into those same Python objects.

Identity matters: a compiled graph holds the handler's pointer tensor, not the layer.
``reload_weights`` packs each layer that the checkpoint names. A tied ``lm_head`` is not named
there, so it keeps the old copy: it is packed again here, from the embedding it shares.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from vllm._custom_ops import CPUDNNLGEMMHandler


class NotRepacked(RuntimeError):
    """A layer has neither its packed copy nor the weight to make it from."""


class PackedLinear:
    """The packed copy of one layer, over a sleep."""

    def __init__(self, name: str, layer: nn.Module) -> None:
        self.name = name
        self.layer = layer
        self.linear = layer.cpu_linear
        self.is_released = False

    def release(self) -> None:
        if self.is_released:
            return
        for part in _parts(self.linear).values():
            _empty(part)
        self.is_released = True

    def restore(self) -> None:
        """Fill the old objects from what the reload packed, packing it now if it did not."""
        if not self.is_released:
            return
        if self.layer.cpu_linear is self.linear:
            self._pack_again()
        fresh = self.layer.cpu_linear
        if fresh.__code__ is self.linear.__code__:
            old_parts = _parts(self.linear)
            for cell, part in _parts(fresh).items():
                _move(part, old_parts[cell])
            self.layer.cpu_linear = self.linear
        else:
            self.linear = fresh
        self.is_released = False

    def _pack_again(self) -> None:
        if self.layer.weight.numel() == 0:
            raise NotRepacked(f"{self.name}: the checkpoint brought no weight to pack")
        self.layer.quant_method.process_weights_after_loading(self.layer)


def packed_linears(model: nn.Module) -> Iterator[PackedLinear]:
    for name, layer in model.named_modules():
        linear = vars(layer).get("cpu_linear")
        if linear is not None and _parts(linear):
            yield PackedLinear(name, layer)


def _parts(linear: Any) -> dict[str, Any]:
    """The packed things in a function's closure, by variable name."""
    names = getattr(getattr(linear, "__code__", None), "co_freevars", ())
    cells = getattr(linear, "__closure__", None) or ()
    return {
        name: cell.cell_contents
        for name, cell in zip(names, cells, strict=True)
        if isinstance(cell.cell_contents, CPUDNNLGEMMHandler | torch.Tensor)
    }


def _empty(part: Any) -> None:
    if isinstance(part, CPUDNNLGEMMHandler):
        part.dtor(part.handler_tensor.item())
        # Its finaliser must not free this a second time.
        part.kept_tensor, part.handler_tensor = part.handler_tensor.zero_(), None
    else:
        part.untyped_storage().resize_(0)


def _move(fresh: Any, old: Any) -> None:
    if isinstance(fresh, CPUDNNLGEMMHandler):
        old.kept_tensor.copy_(fresh.handler_tensor)
        old.handler_tensor, fresh.handler_tensor = old.kept_tensor, None
    else:
        old.untyped_storage().resize_(fresh.untyped_storage().nbytes())
        old.copy_(fresh)
