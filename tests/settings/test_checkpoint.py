from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from controller.checkpoint import UnreadableCheckpoint, describe, read_checkpoint
from controller.footprints import kv_tokens
from tests.settings.checkpoints import BERT, LLAMA, write_model, write_safetensors


def test_weights_are_counted_in_the_dtype_that_is_served(tmp_path: Path) -> None:
    stored = {"a": ("F32", (10, 8)), "b": ("BF16", (3, 8)), "scale": ("I8", (5,))}
    directory = write_model(tmp_path, stored)
    for arguments, size in (({}, 2), ({"dtype": "float32"}, 4), ({"dtype": "half"}, 2)):
        found = read_checkpoint(directory, arguments)
        assert found.weights_bytes == (80 + 24) * size + 5


def test_real_tensors_written_by_the_real_library(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    save_file = pytest.importorskip("safetensors.numpy").save_file
    write_model(tmp_path)
    tensors = {f"layers.{i}": numpy.zeros((7, i + 1), dtype="float16") for i in range(5)}
    save_file(tensors, tmp_path / "model.safetensors")
    assert read_checkpoint(tmp_path, {}).weights_bytes == sum(t.nbytes for t in tensors.values())


def test_an_index_names_the_files_and_others_do_not_count(tmp_path: Path) -> None:
    directory = write_model(tmp_path)
    (directory / "model.safetensors").unlink()
    parts = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    held = [write_safetensors(directory / part, {part: ("BF16", (4, 4))}) for part in parts]
    write_safetensors(directory / "consolidated.safetensors", {"all": ("BF16", (8, 4))})
    index = {"weight_map": {"x": parts[0], "y": parts[1], "z": parts[1]}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    assert read_checkpoint(directory, {}).weights_bytes == sum(held) == 64


def test_quantised_weights_stay_as_they_are_stored(tmp_path: Path) -> None:
    config = {**LLAMA, "quantization_config": {"quant_method": "awq"}}
    directory = write_model(tmp_path, {"q": ("I32", (4, 4)), "s": ("F32", (4,))}, config)
    assert read_checkpoint(directory, {}).weights_bytes == 64 + 16


def test_without_weights_the_parameters_are_counted_from_the_configuration(tmp_path: Path) -> None:
    directory = write_model(tmp_path)
    (directory / "model.safetensors").unlink()
    layer = 8 * 8 + 2 * (8 * 4) + 8 * 8 + 3 * 8 * 16 + 2 * 8
    assert read_checkpoint(directory, {}).weights_bytes == 2 * (10 * 8 + 3 * layer + 8)


KV: list[tuple[dict[str, Any], dict[str, Any], int]] = [
    ({}, {}, 2 * 3 * 2 * 2 * 2),
    ({}, {"dtype": "float32"}, 2 * 3 * 2 * 2 * 4),
    ({}, {"kv_cache_dtype": "fp8"}, 2 * 3 * 2 * 2),
    ({"head_dim": 16}, {}, 2 * 3 * 2 * 16 * 2),
    ({"num_key_value_heads": None}, {}, 2 * 3 * 4 * 2 * 2),
    ({"layer_types": ["full_attention", "linear_attention", "sliding_attention"]}, {}, 32),
    ({"kv_lora_rank": 5, "qk_rope_head_dim": 3}, {}, 3 * 8 * 2),
    ({"model_type": "bert", "architectures": ["BertModel"]}, {}, 0),
]


@pytest.mark.parametrize(("config", "arguments", "expected"), KV)
def test_kv_of_a_token(config: dict[str, Any], arguments: dict[str, Any], expected: int) -> None:
    assert describe({**LLAMA, **config}, {"BF16": 1}, arguments).kv_token_bytes == expected


def test_the_language_part_of_a_multimodal_model_counts() -> None:
    nested = {"architectures": ["XForConditionalGeneration"], "text_config": LLAMA}
    assert describe(nested, {"BF16": 1}, {}).kv_token_bytes == 48


def test_tokens_of_kv_follow_the_heads_that_a_device_holds() -> None:
    model = describe(LLAMA, {"BF16": 1}, {})
    assert kv_tokens(model, 4800, 1) == 100
    assert kv_tokens(model, 4800, 2) == 200
    assert kv_tokens(model, 4800, 4) == 200, "two heads cannot be split over four devices"
    assert kv_tokens(describe(BERT, {"BF16": 1}, {}), 4800, 1) == 0


BROKEN: list[tuple[str, bytes | None, str]] = [
    ("config.json", None, "cannot read"),
    ("config.json", b"{", "is not JSON"),
    ("config.json", b"[]", "is not a JSON object"),
    ("config.json", b'{"num_hidden_layers": "many"}', "makes no sense"),
    ("config.json", b'{"model_type": "llama"}', "has no num_hidden_layers"),
    ("model.safetensors", b"", "is not a safetensors file"),
    ("model.safetensors", (1 << 60).to_bytes(8, "little"), "is not a safetensors file"),
    ("model.safetensors", (5).to_bytes(8, "little") + b"abcde", "is not a safetensors file"),
]


@pytest.mark.parametrize(("file", "content", "reason"), BROKEN)
def test_what_cannot_be_read_says_why(
    tmp_path: Path, file: str, content: bytes | None, reason: str
) -> None:
    directory = write_model(tmp_path)
    if content is None:
        (directory / file).unlink()
    else:
        (directory / file).write_bytes(content)
    with pytest.raises(UnreadableCheckpoint, match=reason):
        read_checkpoint(directory, {})


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(UnreadableCheckpoint, match="no dtype 'int3'"):
        describe(LLAMA, {"BF16": 1}, {"dtype": "int3"})
