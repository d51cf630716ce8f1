"""Tiny model directories, written by hand: a header that says what is there, and no more."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

SIZES = {"F32": 4, "BF16": 2, "F16": 2, "I8": 1, "F8_E4M3": 1, "I32": 4}

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 10,
    "max_position_embeddings": 64,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": True,
}
BERT: dict[str, Any] = {**LLAMA, "architectures": ["BertModel"], "model_type": "bert"}

Tensors = dict[str, tuple[str, tuple[int, ...]]]
"""Name → (dtype, shape)."""


def write_safetensors(path: Path, tensors: Tensors) -> int:
    """The bytes of tensor data that the header tells of; they follow, so the file is whole."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape) in tensors.items():
        end = at + prod(shape) * SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(at))
    return at


def write_model(
    directory: Path, tensors: Tensors | None = None, config: dict[str, Any] = LLAMA
) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    write_safetensors(
        directory / "model.safetensors", tensors or {"embed": ("BF16", (10, 8)), "w": ("F32", (4,))}
    )
    return directory
