"""Models of the Hugging Face hub: what the local cache, or the hub itself, says about memory.

Only headers and config.json are fetched; the weights are the engine's to download. The token is
the hub library's own affair (``HF_TOKEN`` in the environment).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controller.checkpoint import (
    Checkpoint,
    UnreadableCheckpoint,
    describe,
    read_checkpoint,
    read_json,
    weight_files,
)


@dataclass(frozen=True, slots=True)
class HubAccess:
    cache_dir: Path
    is_offline: bool

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> HubAccess:
        """By the hub library's own variables."""
        home = Path(environ.get("HF_HOME") or "~/.cache/huggingface")
        cache = Path(environ.get("HF_HUB_CACHE") or home / "hub")
        offline = environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}
        return cls(cache.expanduser(), offline)

    def cached_snapshot(self, name: str, revision: str | None) -> Path | None:
        """The directory in the hub's cache that holds this revision, if it does."""
        model = self.cache_dir / f"models--{name.replace('/', '--')}"
        wanted = revision or "main"
        reference = model / "refs" / wanted
        commit = reference.read_text().strip() if reference.is_file() else wanted
        snapshot = model / "snapshots" / commit
        return snapshot if (snapshot / "config.json").exists() else None


def read_hub(
    name: str, revision: str | None, engine_args: Mapping[str, Any], hub: HubAccess
) -> Checkpoint:
    """Raises UnreadableCheckpoint: at once where the hub may not be asked."""
    snapshot = hub.cached_snapshot(name, revision)
    if snapshot is not None and weight_files(snapshot):
        return read_checkpoint(snapshot, engine_args)
    if hub.is_offline:
        raise UnreadableCheckpoint(
            f"no directory {name!r}, and HF_HUB_OFFLINE is set: "
            "the hub is not asked, and its cache does not hold the weights"
        )
    return _ask_hub(name, revision, engine_args)


def _ask_hub(name: str, revision: str | None, engine_args: Mapping[str, Any]) -> Checkpoint:
    import httpx
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, NotASafetensorsRepoError

    try:
        config = read_json(Path(hf_hub_download(name, "config.json", revision=revision)))
        elements: Mapping[Any, int] = (
            HfApi().get_safetensors_metadata(name, revision=revision).parameter_count
        )
    except NotASafetensorsRepoError:
        elements = {}
    except (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnreadableCheckpoint(
            f"no such directory, and the hub did not tell about {name!r} ({reason}); "
            "footprint.weights_gib does without asking"
        ) from error
    return describe(config, {str(k): n for k, n in elements.items()}, engine_args)
