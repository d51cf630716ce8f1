"""What a model directory says about memory, read from headers alone: weights, KV of a token.

Weights: the headers of its safetensors files (8 bytes of length, then JSON), each tensor counted
in the dtype it will be served in; quantised tensors as they are stored. Where there are no
safetensors the parameters are counted from config.json, as for a dense Llama-like model.
KV of a token: ``2 × layers × KV heads × head size × bytes``, or one latent vector a layer for
multi-head latent attention; layers of other kinds (linear attention, state space) hold none,
and encoders hold none at all. Sliding windows are counted as if they were full.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

_STORED_BITS = {
    "F64": 64,
    "F32": 32,
    "F16": 16,
    "BF16": 16,
    "I64": 64,
    "I32": 32,
    "I16": 16,
    "F4": 4,
}
_SERVED_BYTES = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2, "auto": 2}
"""vLLM's ``auto`` serves float32 checkpoints in 16 bits."""
_FLOATS = ("F64", "F32", "F16", "BF16")
_ENCODERS = ("bert", "mpnet", "electra", "deberta", "bge", "clip", "siglip", "vit", "t5_encoder")
_HEADS = ("num_attention_heads", "n_head", "num_heads")
_LARGEST_HEADER_BYTES = 256 << 20


class UnreadableCheckpoint(Exception):
    """The directory does not tell what its model needs; the message says why."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    weights_bytes: int
    """Of all devices together, in the dtype that is served."""
    kv_token_bytes: int
    """Of all layers and devices together; 0: the model keeps no KV."""
    heads: int
    """Of attention, which tensor parallelism shares out evenly; 0: not told."""
    kv_heads: int
    """What tensor parallelism can split a token's KV by."""
    max_model_len: int | None


def read_checkpoint(directory: Path, engine_args: Mapping[str, Any]) -> Checkpoint:
    """Raises UnreadableCheckpoint."""
    elements: Counter[str] = Counter()
    for file in weight_files(directory):
        for tensor in _header(file).values():
            elements[tensor["dtype"]] += prod(tensor["shape"])
    return describe(read_json(directory / "config.json"), elements, engine_args)


def describe(
    config: dict[str, Any], elements: Mapping[str, int], engine_args: Mapping[str, Any]
) -> Checkpoint:
    """``elements``: how many numbers are stored by safetensors dtype; empty: count from config.

    Raises UnreadableCheckpoint.
    """
    try:
        return _describe(config, elements, engine_args)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UnreadableCheckpoint(f"config.json makes no sense: {error}") from error


def _describe(
    config: dict[str, Any], elements: Mapping[str, int], engine_args: Mapping[str, Any]
) -> Checkpoint:
    text = _text_config(config)
    served = _served_bytes(engine_args)
    as_stored = "quantization_config" in config or "quantization" in engine_args
    weights = sum(n * _bits(dtype, served, as_stored) // 8 for dtype, n in elements.items())
    eight_bit_kv = "8" in str(engine_args.get("kv_cache_dtype", "auto"))
    return Checkpoint(
        weights_bytes=weights or _dense_parameters(text) * served,
        kv_token_bytes=_kv_values_per_token(config, text) * (1 if eight_bit_kv else served),
        heads=next((int(text[name]) for name in _HEADS if text.get(name) is not None), 0),
        kv_heads=1 if text.get("kv_lora_rank") else _kv_heads(text),
        max_model_len=_length(engine_args, text),
    )


def _length(engine_args: Mapping[str, Any], text: Mapping[str, Any]) -> int | None:
    """None where vLLM is to find it (``auto``, ``-1``) or it is written for people (``16k``)."""
    written = engine_args.get("max_model_len", text.get("max_position_embeddings"))
    return written if isinstance(written, int) and written > 0 else None


def _bits(dtype: str, served_bytes: int, as_stored: bool) -> int:
    if dtype in _FLOATS and not as_stored:
        return 8 * served_bytes
    return _STORED_BITS.get(dtype, 8)


def read_json(path: Path) -> dict[str, Any]:
    """Raises UnreadableCheckpoint."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnreadableCheckpoint(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UnreadableCheckpoint(f"{path} is not JSON") from error
    if not isinstance(found, dict):
        raise UnreadableCheckpoint(f"{path} is not a JSON object")
    return found


def _text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The language model's part of a multimodal configuration, or all of it."""
    for key in ("text_config", "llm_config", "language_config"):
        if isinstance(config.get(key), dict):
            return {**config, **config[key]}
    return config


def _served_bytes(engine_args: Mapping[str, Any]) -> int:
    dtype = str(engine_args.get("dtype", "auto"))
    if dtype not in _SERVED_BYTES:
        raise UnreadableCheckpoint(f"vLLM has no dtype {dtype!r}")
    return _SERVED_BYTES[dtype]


# weights


def weight_files(directory: Path) -> list[Path]:
    """What the index names; else the numbered or single model file; else every safetensors."""
    index = directory / "model.safetensors.index.json"
    if index.exists():
        named = read_json(index).get("weight_map", {})
        return [directory / name for name in sorted(set(named.values()))]
    found = sorted(directory.glob("*.safetensors"))
    return [f for f in found if f.name.startswith("model")] or found


def _header(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= _LARGEST_HEADER_BYTES:
                raise UnreadableCheckpoint(f"{path} is not a safetensors file")
            header = json.loads(file.read(length))
    except OSError as error:
        raise UnreadableCheckpoint(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UnreadableCheckpoint(f"{path} is not a safetensors file") from error
    return {name: tensor for name, tensor in header.items() if name != "__metadata__"}


def _dense_parameters(text: Mapping[str, Any]) -> int:
    hidden, layers = _first(text, "hidden_size", "n_embd"), _layers(text)
    vocabulary = _first(text, "vocab_size")
    inner = text.get("intermediate_size") or 4 * hidden
    attention = hidden * _head_size(text) * 2 * (_heads(text) + _kv_heads(text))
    embeddings = vocabulary * hidden * (1 if text.get("tie_word_embeddings") else 2)
    return embeddings + layers * (attention + 3 * hidden * int(inner) + 2 * hidden) + hidden


# KV


def _kv_values_per_token(config: Mapping[str, Any], text: Mapping[str, Any]) -> int:
    if _is_encoder(config):
        return 0
    if text.get("kv_lora_rank"):
        latent = int(text["kv_lora_rank"]) + int(text.get("qk_rope_head_dim") or 0)
        return _attention_layers(text) * latent
    return 2 * _attention_layers(text) * _kv_heads(text) * _head_size(text)


def _is_encoder(config: Mapping[str, Any]) -> bool:
    architectures: Iterable[str] = config.get("architectures") or ()
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures):
        return False
    return any(word in str(config.get("model_type", "")).lower() for word in _ENCODERS)


def _attention_layers(text: Mapping[str, Any]) -> int:
    kinds = text.get("layer_types")
    if isinstance(kinds, list):
        return sum("attention" in kind and "linear" not in kind for kind in kinds)
    return _layers(text)


def _layers(text: Mapping[str, Any]) -> int:
    return _first(text, "num_hidden_layers", "n_layer", "num_layers")


def _heads(text: Mapping[str, Any]) -> int:
    return _first(text, *_HEADS)


def _kv_heads(text: Mapping[str, Any]) -> int:
    return int(text.get("num_key_value_heads") or _heads(text))


def _head_size(text: Mapping[str, Any]) -> int:
    return int(text.get("head_dim") or _first(text, "hidden_size", "n_embd") // _heads(text))


def _first(config: Mapping[str, Any], *names: str) -> int:
    for name in names:
        if config.get(name) is not None:
            return int(config[name])
    raise UnreadableCheckpoint(f"config.json has no {names[0]}")
